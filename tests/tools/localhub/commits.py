"""Endpoints that change the tree: preupload and commit; and tags and branches."""

from __future__ import annotations

import base64
import binascii
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from localhub import attributes, discussions
from localhub.accounts import card_errors, front_matter
from localhub.answers import Answer, Call, Refusal, as_json, entry_not_found, revision_not_found
from localhub.git import ABSENT
from localhub.lfs import pointer
from localhub.repos import Hub, Repo

Changes = dict[str, bytes | None]  # path -> new content, None to delete

_PREUPLOAD_MOST = 1000
_OUTDATED = "The branch was updated since you opened this page. Please refresh and try again."
_NO_FILE = "A file with this name doesn't exist"


def preupload(hub: Hub, call: Call, repo: Repo, rev: str) -> Answer:
    """How each file is to be sent, and what is there now by the same kind of hash."""
    _pusher(hub, call, repo, rev)
    repo.branch(rev)
    files = call.json()["files"]
    if len(files) > _PREUPLOAD_MOST:
        raise Refusal(400, f'"files" must contain less than or equal to {_PREUPLOAD_MOST} items')
    for item in files:
        _check_path(item["path"])
    sha = repo.resolve(rev)
    by_name = attributes.lfs_paths(
        repo.git, attributes.attribute_files(repo.git, sha), (item["path"] for item in files)
    )
    entries = repo.git.tree(sha).entries
    said = []
    for item in files:
        lfs = item["size"] > 0 and (
            item["path"] in by_name
            or item["size"] > attributes.MAX_REGULAR
            or attributes.is_binary_sample(base64.b64decode(item.get("sample", "")))
        )
        there = entries.get(item["path"])
        oid = {}
        if there is not None and there.kind == "file" and bool(there.lfs) == lfs:
            oid = {"oid": there.lfs.oid if there.lfs else there.oid}
        said.append({"path": item["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, **oid})
    return as_json({"files": said})


def _pusher(hub: Hub, call: Call, repo: Repo, rev: str) -> str:
    hub.need_gate_key(call, repo)
    if call.flag("create_pr"):
        return hub.need_user(call)
    return discussions.need_pusher(hub, call, repo, rev)


def _check_path(path: str) -> None:
    parts = path.split("/")
    if any(part in ("", ".", "..") or part.lower() == ".git" for part in parts) or any(
        char == "\\" or ord(char) < 32 or ord(char) == 127 or "\ud800" <= char <= "\udfff" for char in path
    ):
        raise Refusal(422, f"Invalid path: {json.dumps(path)}")


@dataclass
class _Request:
    """A commit as it was sent: the header, and one operation a line."""

    summary: str
    description: str
    parent: str | None
    operations: list[tuple[str, dict[str, Any]]]

    @property
    def message(self) -> str:
        return f"{self.summary}\n\n{self.description}".strip()

    @classmethod
    def parse(cls, call: Call) -> _Request:
        try:
            lines = [json.loads(line) for line in call.body.splitlines() if line.strip()]
            rows = [(line["key"], line["value"]) for line in lines]
        except (ValueError, KeyError, TypeError) as error:
            raise Refusal(400, f"Invalid ndjson: {error}") from None
        if not rows or rows[0][0] != "header" or not rows[0][1].get("summary"):
            raise Refusal(400, '"summary" is required')
        header = rows[0][1]
        return cls(header["summary"], header.get("description") or "", header.get("parentCommit"), rows[1:])


def commit(hub: Hub, call: Call, repo: Repo, rev: str) -> Answer:
    """One commit on a branch or a pull request, or as a new pull request."""
    user, asked = _pusher(hub, call, repo, rev), _Request.parse(call)
    ref = repo.branch(rev)
    if call.flag("create_pr"):
        return _propose(hub, call, repo, ref, user, asked)
    discussions.need_unmerged(repo, ref)
    with repo.committing(ref, hub.options.wait):
        call.linger()
        head = repo.resolve(ref)
        if asked.parent is not None and asked.parent != head:
            raise Refusal(412, _OUTDATED)
        sha = _write(hub, repo, ref, head, user, asked)
        if not repo.git.move(ref, sha, head):
            raise Refusal(409, "The branch was updated meanwhile. Please retry.")
        discussions.add_commit(repo, ref, user, sha, head, asked.summary)
    return _landed(call, repo, sha)


def _propose(hub: Hub, call: Call, repo: Repo, ref: str, user: str, asked: _Request) -> Answer:
    """A new pull request, based on the parent that was sent, or else on the branch's head."""
    if not ref.startswith("refs/heads/"):
        raise revision_not_found(ref)
    base = repo.resolve(asked.parent or ref)
    sha = _write(hub, repo, ref, base, user, asked)
    item = discussions.add(repo, user, asked.summary, asked.description, head=sha, base=ref)
    discussions.add_commit(repo, f"refs/pr/{item['num']}", user, sha, base, asked.summary)
    url = f"{call.origin}/{repo.web_path}/discussions/{item['num']}"
    return _landed(call, repo, sha, pullRequestUrl=url)


def _landed(call: Call, repo: Repo, sha: str, **more: str) -> Answer:
    url = f"{call.origin}/{repo.web_path}/commit/{sha}"
    return as_json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": "", **more})


def _write(hub: Hub, repo: Repo, ref: str, base: str, user: str, asked: _Request) -> str:
    changes, large = _plan(repo, base, asked.operations)
    _check_content(changes)
    _cover(repo, base, changes, large)
    changes |= {path: pointer(oid, size) for path, (oid, size) in large.items()}
    _check_folders(repo, ref, base, changes, hub.options.folder_limit)
    return repo.git.write_commit(changes, parent=base, author=user, message=asked.message)


def _plan(
    repo: Repo, base: str, operations: Iterable[tuple[str, dict[str, Any]]]
) -> tuple[Changes, dict[str, tuple[str, int]]]:
    """What the operations, one after the other, come to: ordinary changes, and large files as (sha256, size)."""
    changes: Changes = {}
    large: dict[str, tuple[str, int]] = {}
    entries = repo.git.tree(base).entries

    def present(path: str) -> bool:
        there = path in entries and entries[path].kind == "file"
        return path in large or (changes[path] is not None if path in changes else there)

    for key, value in operations:
        path = value["path"].rstrip("/") if key == "deletedFolder" else value["path"]
        _check_path(path)
        if key == "file":
            large.pop(path, None)
            changes[path] = _content(value)
        elif key == "lfsFile":
            changes.pop(path, None)
            large[path] = (value["oid"], _uploaded_size(repo, value))
        elif key in ("deletedFile", "deletedFolder", "deletedEntry"):
            folder = f"{path}/"
            gone = [path] if key != "deletedFolder" and present(path) else []
            if key != "deletedFile":
                known = {*entries, *changes, *large}
                gone += [name for name in known if name.startswith(folder) and present(name)]
            if not gone:
                raise entry_not_found(f"{_NO_FILE}: {path}", base)
            for name in gone:
                large.pop(name, None)
                changes[name] = None
        else:
            raise Refusal(400, f"Unknown operation: {key}")
    return changes, large


def _content(value: dict[str, Any]) -> bytes:
    if value.get("encoding", "utf-8") != "base64":
        return str(value["content"]).encode()
    try:
        return base64.b64decode(value["content"], validate=True)
    except binascii.Error:
        raise Refusal(400, f"Invalid base64 content: {value['path']}") from None


def _uploaded_size(repo: Repo, value: dict[str, Any]) -> int:
    size = repo.lfs.size(value["oid"])
    if size is None or value.get("size", size) != size:
        raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['path']} ({value['oid']})")
    return size


def _check_content(changes: Changes) -> None:
    """Refuse what plain git does not take on the Hub: binary files, large files, a card that does not parse."""
    given = {path: data for path, data in changes.items() if data is not None}
    for what, paths in {
        "binary files": [path for path, data in given.items() if attributes.is_binary(data)],
        "files larger than 10 MiB": [path for path, data in given.items() if len(data) > attributes.MAX_REGULAR],
    }.items():
        if paths:
            listed = "".join(f"\n  - {path}" for path in paths)
            advice = "Please use https://huggingface.co/docs/hub/xet to store them."
            raise Refusal(
                400, f"Your push was rejected because it contains {what}. {advice}\n\nOffending files:{listed}"
            )
    if "README.md" in given:
        try:
            errors = card_errors(front_matter(given["README.md"].decode("utf-8", "replace")))
        except ValueError as error:
            errors = [str(error)]
        if errors:
            raise Refusal(400, f"Invalid metadata in README.md: {'; '.join(errors)}")


def _cover(repo: Repo, base: str, changes: Changes, large: dict[str, tuple[str, int]]) -> None:
    """Add a line to .gitattributes for each large file that it does not send to LFS."""
    files = attributes.attribute_files(repo.git, base)
    for path, data in changes.items():
        if path == ".gitattributes" or path.endswith("/.gitattributes"):
            files.pop(path, None)
            if data is not None:
                files[path] = repo.git.write_blob(data)
    missing = sorted({*large} - attributes.lfs_paths(repo.git, files, large))
    if missing:
        root = files.get(".gitattributes")
        current = repo.git.blob(root) if root else b""
        changes[".gitattributes"] = attributes.covering(current, missing)


def _check_folders(repo: Repo, ref: str, base: str, changes: Changes, most: int) -> None:
    """Refuse a directory of too many entries, among those the commit adds to."""
    touched = {folder for path, data in changes.items() if data is not None for folder in _folders(path)}
    paths = {entry.path for entry in repo.git.tree(base).files()} | set(changes)
    paths -= {path for path, data in changes.items() if data is None}
    children: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        for folder in _folders(path):
            if folder in touched:
                children[folder].add(path)
            path = folder
    crowded = sorted(f"/{folder}/" for folder, names in children.items() if len(names) > most)
    if crowded:
        raise Refusal(
            400,
            "Your push was rejected because it contains too many files per directory. "
            f"Each directory in your git repo can only contain up to {most} files. "
            f"Offending reference: {ref} Offending directories: {' '.join(crowded)}",
        )


def _folders(path: str) -> Iterator[str]:
    """The folders a path lies in, from the inside out; the root is empty."""
    while path:
        path = path.rpartition("/")[0]
        yield path


def add_tag(hub: Hub, call: Call, repo: Repo, rev: str) -> Answer:
    user, asked = hub.need_writer(call, repo), call.json()
    tag, message = asked["tag"], asked.get("message")
    ref, sha = f"refs/tags/{tag}", repo.resolve(rev)
    if not repo.git.is_ref_name(ref):
        raise Refusal(400, f"Invalid tag name: {tag}")
    if repo.git.head(ref) is not None:
        raise Refusal(409, f"Tag {tag} already exists")
    if message:
        who = {"GIT_COMMITTER_NAME": user, "GIT_COMMITTER_EMAIL": f"{user}@localhost"}
        repo.git.run("tag", "-a", "-F", "-", "--", tag, sha, given=message.encode(), env=who)
    else:
        repo.git.move(ref, sha, ABSENT)
    return as_json({})


def add_branch(hub: Hub, call: Call, repo: Repo, branch: str) -> Answer:
    hub.need_writer(call, repo)
    ref, start = f"refs/heads/{branch}", repo.resolve(call.json().get("startingPoint") or "main")
    if not repo.git.is_ref_name(ref):
        raise Refusal(400, f"Invalid branch name: {branch}")
    if not repo.git.move(ref, start, ABSENT):
        raise Refusal(409, f"Reference already exists: {ref}")
    return as_json({})


def remove_ref(hub: Hub, call: Call, repo: Repo, ref: str) -> Answer:
    hub.need_writer(call, repo)
    if ref == "refs/heads/main":
        raise Refusal(403, "The branch main cannot be deleted")
    if repo.git.head(ref) is None:
        raise revision_not_found(ref)
    repo.git.run("update-ref", "-d", ref)
    return as_json({})
