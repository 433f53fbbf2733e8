"""Endpoints of the LFS protocol: what to send, where, and whether it came."""

from __future__ import annotations

import re
from math import ceil
from typing import Any

from localhub.answers import Answer, Call, Refusal, as_json
from localhub.discussions import need_pusher
from localhub.downloads import check_signature, signed
from localhub.repos import Hub, Repo

_OID = re.compile(r"[0-9a-f]{64}")
_LFS_JSON = {"Content-Type": "application/vnd.git-lfs+json"}


def batch(hub: Hub, call: Call, repo: Repo) -> Answer:
    """Upload addresses for the objects that are not here yet.

    A logged-in reader may send objects for a pull request that is still to be made, which names no reference.
    """
    asked = call.json()
    if asked.get("operation") != "upload":
        return _download(hub, call, repo, asked)
    ref = asked.get("ref", {}).get("name")
    if ref is None:
        hub.need_user(call)
    else:
        need_pusher(hub, call, repo, ref)
    objects = [_offer(hub, call, repo, item) for item in asked["objects"]]
    multipart = any("chunk_size" in item.get("actions", {}).get("upload", {}).get("header", {}) for item in objects)
    said = {"transfer": "multipart" if multipart else "basic", "objects": objects, "hash_algo": "sha256"}
    return as_json(said, headers=_LFS_JSON)


def _offer(hub: Hub, call: Call, repo: Repo, item: dict[str, Any]) -> dict[str, Any]:
    oid, size = item["oid"], item["size"]
    if not _OID.fullmatch(oid):
        return {"oid": oid, "size": size, "error": {"code": 422, "message": f"not a sha256: {oid}"}}
    if repo.lfs.size(oid) is not None:
        return {"oid": oid, "size": size}
    here = f"{call.origin}/{repo.web_path}.git/info/lfs/objects"
    upload: dict[str, Any] = {"href": signed(hub, call, repo, "PutObject", oid)}
    chunk = hub.options.multipart
    if chunk and size > chunk:
        parts = {str(k): signed(hub, call, repo, "PutObject", oid, k) for k in range(1, ceil(size / chunk) + 1)}
        complete = signed(hub, call, repo, "Complete", oid).partition("?")[2]
        upload = {"href": f"{here}/complete/{oid}?{complete}", "header": {"chunk_size": str(chunk), **parts}}
    return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": {"href": f"{here}/verify"}}}


def _download(hub: Hub, call: Call, repo: Repo, asked: dict[str, Any]) -> Answer:
    hub.need_gate_key(call, repo)
    objects = []
    for item in asked["objects"]:
        if repo.lfs.size(item["oid"]) is None:
            objects.append({**item, "error": {"code": 404, "message": "Object does not exist"}})
        else:
            href = signed(hub, call, repo, "GetObject", item["oid"])
            objects.append({**item, "actions": {"download": {"href": href}}})
    return as_json({"transfer": "basic", "objects": objects}, headers=_LFS_JSON)


def put(hub: Hub, call: Call, repo: Repo, oid: str) -> Answer:
    """The bytes of an object, or of one part of it."""
    part = call.query.get("partNumber")
    if part is not None:
        return Answer(200, {"ETag": f'"{repo.lfs.put_part(oid, int(part), call.body)}"'})
    if not repo.lfs.put(oid, call.body):
        raise Refusal(400, "BadDigest: the content does not hash to the name of the object")
    return Answer(200, {"ETag": f'"{oid}"'})


def complete(hub: Hub, call: Call, repo: Repo, oid: str) -> Answer:
    """The parts of an object are all sent."""
    if check_signature(hub, call, f"{repo.kind}s/{repo.id}", oid) != "Complete":
        raise Refusal(403, "SignatureDoesNotMatch")
    parts = sorted(call.json()["parts"], key=lambda part: int(part["partNumber"]))
    if not repo.lfs.join_parts(oid, [part["etag"].strip('"') for part in parts]):
        raise Refusal(400, "InvalidPart: parts are missing, or do not hash to the name of the object")
    return as_json({"success": True})


def verify(hub: Hub, call: Call, repo: Repo) -> Answer:
    """Whether an object came whole."""
    hub.need_user(call)
    asked = call.json()
    size = repo.lfs.size(asked["oid"])
    if size is None or size != asked["size"]:
        raise Refusal(404 if size is None else 422, f"Object {asked['oid']} is not here with {asked['size']} bytes")
    return as_json({})
