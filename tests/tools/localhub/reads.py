"""Endpoints that only read: repository info, trees, paths, references, history."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

from localhub.accounts import front_matter
from localhub.answers import Answer, Call, Refusal, as_json, date, entry_not_found, page
from localhub.git import Commit, Entry, Tree
from localhub.repos import Hub, Repo

_MOST_PATHS = 2000


def _sibling(entry: Entry, blobs: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"rfilename": entry.path}
    if blobs:
        found |= {"blobId": entry.oid, "size": entry.lfs.size if entry.lfs else entry.size}
        if entry.lfs:
            lfs = entry.lfs
            found["lfs"] = {"sha256": lfs.oid, "size": lfs.size, "pointerSize": lfs.pointer_size}
    return found


def _card(repo: Repo, tree: Tree) -> dict[str, Any]:
    readme = tree.entries.get("README.md")
    if readme is None or readme.lfs:
        return {}
    return _front_matter(repo.git.blob(readme.oid))


@lru_cache(maxsize=64)
def _front_matter(readme: bytes) -> dict[str, Any]:
    try:
        return front_matter(readme.decode("utf-8", "replace"))
    except ValueError:
        return {}


def _tags(card: dict[str, Any]) -> list[str]:
    tags, licence = card.get("tags") or [], card.get("license")
    return [*([tags] if isinstance(tags, str) else tags), *([f"license:{licence}"] if licence else [])]


def info(hub: Hub, call: Call, repo: Repo, rev: str) -> Answer:
    sha = repo.resolve(rev, call.stale)
    tree, newest = repo.git.tree(sha), repo.git.log(sha, "-1")[0]
    files, card = tree.files(), _card(repo, tree)
    name = {"modelId": repo.id} if repo.kind == "model" else {}
    answer = {
        "_id": f"{repo.kind}-{repo.id}",
        "id": repo.id,
        **name,
        "author": repo.namespace,
        "sha": sha,
        "private": repo.meta["private"],
        "gated": repo.meta["gated"],
        "disabled": False,
        "createdAt": date(repo.meta["createdAt"]),
        "lastModified": date(newest.when),
        "tags": _tags(card),
        "cardData": card,
        "downloads": 0,
        "likes": 0,
        "siblings": [_sibling(entry, call.flag("blobs")) for entry in files],
        "usedStorage": sum(entry.lfs.size if entry.lfs else entry.size for entry in files),
    }
    wanted = parse_qs(call.raw_query).get("expand")
    return as_json({key: answer[key] for key in ("_id", "id", *wanted) if key in answer} if wanted else answer)


def _item(entry: Entry, changes: dict[str, Commit] | None) -> dict[str, Any]:
    found: dict[str, Any] = {"type": entry.kind, "oid": entry.oid, "size": entry.size, "path": entry.path}
    if entry.lfs:
        found["size"] = entry.lfs.size
        found["lfs"] = {"oid": entry.lfs.oid, "size": entry.lfs.size, "pointerSize": entry.lfs.pointer_size}
    if changes is not None and entry.path in changes:
        commit = changes[entry.path]
        found["lastCommit"] = {"id": commit.sha, "title": commit.title, "date": date(commit.when)}
    return found


def tree(hub: Hub, call: Call, repo: Repo, rev: str, folder: str) -> Answer:
    sha, expand = repo.resolve(rev, call.stale), call.flag("expand")
    entries = repo.git.tree(sha).below(folder.strip("/"), call.flag("recursive"))
    if entries is None:
        raise entry_not_found(f'"{folder}" does not exist on "{rev}"', sha)
    most = hub.options.expand_page if expand else hub.options.tree_page
    wanted = call.query.get("limit", "")
    found, link = page(call, entries, min(most, max(1, int(wanted))) if wanted.isdigit() else most)
    changes = repo.git.last_changes(sha) if expand else None
    return as_json([_item(entry, changes) for entry in found], headers={**link, "X-Repo-Commit": sha})


def paths_info(hub: Hub, call: Call, repo: Repo, rev: str) -> Answer:
    if call.headers.get("Content-Type", "").startswith("application/json"):
        asked = call.json()
        paths, expand = asked.get("paths", []), bool(asked.get("expand"))
    else:
        form = call.form()
        paths, expand = form.get("paths", []), form.get("expand", ["false"])[-1].lower() in ("true", "1")
    if len(paths) > _MOST_PATHS:
        raise Refusal(413, f"Too many paths: {len(paths)}, at most {_MOST_PATHS}")
    sha = repo.resolve(rev, call.stale)
    entries, changes = repo.git.tree(sha).entries, repo.git.last_changes(sha) if expand else None
    known = [entries[path.strip("/")] for path in paths if path.strip("/") in entries]
    return as_json([_item(entry, changes) for entry in known])


def refs(hub: Hub, call: Call, repo: Repo) -> Answer:
    def listed(prefix: str, cut: str) -> list[dict[str, str]]:
        rows = repo.git.refs(prefix).items()
        before = {sha: repo.git.parent(sha) or sha for _, sha in rows} if call.stale else {}
        return [{"name": ref.removeprefix(cut), "ref": ref, "targetCommit": before.get(sha, sha)} for ref, sha in rows]

    found: dict[str, Any] = {
        "branches": listed("refs/heads", "refs/heads/"),
        "tags": listed("refs/tags", "refs/tags/"),
        "converts": [],
    }
    if call.flag("include_prs"):
        found["pullRequests"] = listed("refs/pr", "")
    return as_json(found)


def commits(hub: Hub, call: Call, repo: Repo, rev: str) -> Answer:
    history = repo.git.log(repo.resolve(rev, call.stale))
    found, link = page(call, history, hub.options.commits_page)
    shown = [
        {
            "id": commit.sha,
            "title": commit.title,
            "message": commit.message.partition("\n")[2].strip(),
            "authors": [{"user": commit.author}],
            "date": date(commit.when),
        }
        for commit in found
    ]
    return as_json(shown, headers={**link, "X-Total-Count": str(len(history))})
