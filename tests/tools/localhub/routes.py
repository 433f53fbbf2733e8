"""From method and raw path to an endpoint."""

from __future__ import annotations

from localhub import accounts, commits, discussions, downloads, reads, uploads
from localhub.answers import Answer, Call, Refusal
from localhub.repos import KINDS, Hub, Repo

_NOT_THERE = Refusal(404, "Sorry, we can't find the page you are looking for.")


def answer(hub: Hub, call: Call) -> Answer:
    """What the Hub answers."""
    try:
        hub.identify(call)
        return _hub(hub, call)
    except Refusal as refusal:
        return refusal.answer()


def cdn_answer(hub: Hub, call: Call) -> Answer:
    """What the store of large objects answers; the address itself is the permission."""
    try:
        match call.segments:
            case ["repos", kinds, namespace, name, oid] if kinds in KINDS:
                folder = f"{kinds}/{namespace}/{name}"
                action, repo = (
                    downloads.check_signature(hub, call, folder, oid),
                    hub.known(KINDS[kinds], namespace, name),
                )
                if action == "GetObject" and call.method in ("GET", "HEAD"):
                    return downloads.cdn(hub, call, repo, oid)
                if action == "PutObject" and call.method == "PUT":
                    return uploads.put(hub, call, repo, oid)
        raise Refusal(403, "AccessDenied")
    except Refusal as refusal:
        return refusal.answer()


def _hub(hub: Hub, call: Call) -> Answer:
    match (call.method, call.segments):
        case "GET", ["api", "whoami-v2"]:
            return accounts.whoami(hub, call)
        case "POST", ["api", "repos", "create"]:
            return accounts.create(hub, call)
        case "DELETE", ["api", "repos", "delete"]:
            return accounts.delete(hub, call)
        case "POST", ["api", "validate-yaml"]:
            return accounts.validate_yaml(call)
        case "GET" | "HEAD", ["api", "resolve-cache", kinds, namespace, name, sha, *path] if kinds in KINDS:
            repo = hub.find(call, KINDS[kinds], namespace, name)
            return downloads.resolve_cache(hub, call, repo, sha, "/".join(path))
        case _, ["api", kinds, namespace, name, *rest] if kinds in KINDS:
            return _api(hub, call, hub.find(call, KINDS[kinds], namespace, name), rest)
        case _, ["datasets", namespace, name, *rest]:
            return _files(hub, call, "dataset", namespace, name, rest)
        case _, [namespace, name, *rest]:
            return _files(hub, call, "model", namespace, name, rest)
    raise _NOT_THERE


def _files(hub: Hub, call: Call, kind: str, namespace: str, name: str, rest: list[str]) -> Answer:
    match (call.method, rest):
        case "GET" | "HEAD", ["resolve", rev, *path]:
            return downloads.resolve(hub, call, hub.find(call, kind, namespace, name), rev, "/".join(path))
        case "POST", ["info", "lfs", "objects", *action] if name.endswith(".git"):
            return _lfs(hub, call, hub.find(call, kind, namespace, name.removesuffix(".git")), action)
    raise _NOT_THERE


def _lfs(hub: Hub, call: Call, repo: Repo, action: list[str]) -> Answer:
    match action:
        case ["batch"]:
            return uploads.batch(hub, call, repo)
        case ["verify"]:
            return uploads.verify(hub, call, repo)
        case ["complete", oid]:
            return uploads.complete(hub, call, repo, oid)
    raise _NOT_THERE


def _api(hub: Hub, call: Call, repo: Repo, rest: list[str]) -> Answer:
    match (call.method, rest):
        case "GET", []:
            return reads.info(hub, call, repo, "main")
        case "GET", ["revision", rev]:
            return reads.info(hub, call, repo, rev)
        case "GET", ["tree", rev, *path]:
            return reads.tree(hub, call, repo, rev, "/".join(path))
        case "POST", ["paths-info", rev]:
            return reads.paths_info(hub, call, repo, rev)
        case "GET", ["refs"]:
            return reads.refs(hub, call, repo)
        case "GET", ["commits", rev]:
            return reads.commits(hub, call, repo, rev)
        case "GET", ["auth-check", *which] if which in ([], ["write"]):
            return accounts.auth_check(hub, call, repo, bool(which))
        case "PUT", ["settings"]:
            return accounts.settings(hub, call, repo)
        case "POST", ["user-access-request", "grant"]:
            return accounts.grant(hub, call, repo)
        case "POST", ["preupload", rev]:
            return commits.preupload(hub, call, repo, rev)
        case "POST", ["commit", rev]:
            return commits.commit(hub, call, repo, rev)
        case "POST", ["tag", rev]:
            return commits.add_tag(hub, call, repo, rev)
        case "DELETE", ["tag", name]:
            return commits.remove_ref(hub, call, repo, f"refs/tags/{name}")
        case "POST", ["branch", name]:
            return commits.add_branch(hub, call, repo, name)
        case "DELETE", ["branch", name]:
            return commits.remove_ref(hub, call, repo, f"refs/heads/{name}")
        case _, ["discussions", *more]:
            return _discussion(hub, call, repo, more)
    raise _NOT_THERE


def _discussion(hub: Hub, call: Call, repo: Repo, rest: list[str]) -> Answer:
    match (call.method, rest):
        case "GET", []:
            return discussions.listing(hub, call, repo)
        case "POST", []:
            return discussions.create(hub, call, repo)
        case "GET", [number]:
            return discussions.details(hub, call, repo, number)
        case "POST", [number, "comment"]:
            return discussions.comment(hub, call, repo, number)
        case "POST", [number, "comment", identifier, ("edit" | "hide") as action]:
            return discussions.change_comment(hub, call, repo, number, identifier, action)
        case "POST", [number, "title"]:
            return discussions.retitle(hub, call, repo, number)
        case "POST", [number, "status"]:
            return discussions.set_status(hub, call, repo, number)
        case "POST", [number, "merge"]:
            return discussions.merge(hub, call, repo, number)
    raise _NOT_THERE
