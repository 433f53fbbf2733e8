"""Endpoints of discussions and pull requests; a pull request is the reference refs/pr/N and a discussion."""

from __future__ import annotations

import secrets
import time
from typing import Any

from localhub.answers import Answer, Call, Refusal, as_json, date
from localhub.git import ABSENT
from localhub.repos import Hub, Repo

_PUSH_HINT = "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request"
_TITLE = (3, 200)  # characters, least and most


def need_pusher(hub: Hub, call: Call, repo: Repo, rev: str) -> str:
    """The user, who may commit to `rev`: a writer, or the author of that pull request."""
    user = hub.need_user(call)
    if not hub.may_write(user, repo.namespace) and user != _by_ref(repo, rev).get("author"):
        raise Refusal(403, _PUSH_HINT)
    return user


def _by_ref(repo: Repo, rev: str) -> dict[str, Any]:
    """The pull request of a reference name; empty where it is not one."""
    return next((item for item in repo.discussions if item["pull"] and rev == _ref(item)), {})


def _ref(item: dict[str, Any]) -> str:
    return f"refs/pr/{item['num']}"


def _event(kind: str, author: str, **data: Any) -> dict[str, Any]:
    return {
        "id": secrets.token_hex(12),
        "type": kind,
        "createdAt": date(time.time()),
        "author": {"name": author, "fullname": author.title(), "type": "user"},
        "data": data,
    }


def _text(text: str, author: str) -> dict[str, Any]:
    return {"raw": text, "html": "", "updatedAt": date(time.time()), "author": {"name": author}}


def _comment(text: str, author: str) -> dict[str, Any]:
    return _event("comment", author, edited=False, hidden=False, latest=_text(text, author))


def add(
    repo: Repo, author: str, title: str, description: str, *, head: str = "", base: str = "", draft: bool = False
) -> dict[str, Any]:
    """A new discussion; with `head` a pull request whose reference points there."""
    with repo.lock:
        item: dict[str, Any] = {
            "num": len(repo.discussions) + 1,
            "title": title,
            "author": author,
            "createdAt": date(time.time()),
            "status": "draft" if draft else "open",
            "pull": bool(head),
            "base": base,
            "merged": None,
            "events": [_comment(description, author)],
        }
        if head:
            repo.git.move(_ref(item), head, ABSENT)
        repo.discussions.append(item)
        repo.save()
    return item


def add_commit(repo: Repo, rev: str, author: str, sha: str, parent: str, subject: str) -> None:
    """Note a commit to a pull request among its events; nothing for other references."""
    item = _by_ref(repo, rev)
    if item:
        with repo.lock:
            item["events"].append(_event("commit", author, subject=subject, oid=sha, parents=[parent]))
            repo.save()


def need_unmerged(repo: Repo, rev: str) -> None:
    if _by_ref(repo, rev).get("status") == "merged":
        raise Refusal(403, "This pull request is merged; open a new one")


def _summary(repo: Repo, item: dict[str, Any]) -> dict[str, Any]:
    return {
        "num": item["num"],
        "title": item["title"],
        "status": item["status"],
        "author": {"name": item["author"], "type": "user"},
        "createdAt": item["createdAt"],
        "isPullRequest": item["pull"],
        "numComments": sum(event["type"] == "comment" for event in item["events"]),
        "pinned": False,
        "repo": {"name": repo.id, "type": repo.kind},
    }


def listing(hub: Hub, call: Call, repo: Repo) -> Answer:
    query, size = call.query, hub.options.discussions_page
    pulls = {"pull_request": (True,), "discussion": (False,)}.get(query.get("type", "all"), (True, False))
    states = {"open": ("open", "draft"), "closed": ("closed", "merged")}.get(query.get("status", "all"))
    found = [
        _summary(repo, item)
        for item in reversed(repo.discussions)
        if item["pull"] in pulls
        and (states is None or item["status"] in states)
        and query.get("author") in (None, "", item["author"])
    ]
    start = int(query.get("p", "0")) * size
    said = {"discussions": found[start : start + size], "count": len(found), "start": start, "numClosedDiscussions": 0}
    return as_json(said)


def _find(repo: Repo, number: str) -> dict[str, Any]:
    if not number.isdigit() or not 1 <= int(number) <= len(repo.discussions):
        raise Refusal(404, f"There is no discussion {number}")
    return repo.discussions[int(number) - 1]


def details(hub: Hub, call: Call, repo: Repo, number: str) -> Answer:
    item = _find(repo, number)
    said = {**_summary(repo, item), "events": item["events"]}
    if item["pull"]:
        said |= _changes(call, repo, item)
    return as_json(said)


def _changes(call: Call, repo: Repo, item: dict[str, Any]) -> dict[str, Any]:
    git = repo.git
    head, base = git.head(_ref(item)), git.head(item["base"])
    if head is None or base is None:
        raise Refusal(500, "a branch of this pull request is gone")
    said: dict[str, Any] = {"changes": {"base": item["base"]}, "filesWithConflicts": []}
    if item["merged"]:
        said["changes"]["mergeCommitId"] = item["merged"]
        before, after = git.parent(item["merged"]), item["merged"]
    else:
        said["filesWithConflicts"] = git.merge_tree(base, head)[1]
        before, after = git.merge_base(base, head), head
    if call.flag("diff") and before is not None:
        said["diff"] = git.diff(before, after)
    return said


def create(hub: Hub, call: Call, repo: Repo) -> Answer:
    user, asked = hub.need_user(call), call.json()
    title, pull = _title(asked), bool(asked.get("pullRequest"))
    head = repo.resolve("main") if pull else ""
    item = add(repo, user, title, asked.get("description", ""), head=head, base="refs/heads/main", draft=pull)
    return as_json({"num": item["num"], "url": f"{call.origin}/{repo.web_path}/discussions/{item['num']}"})


def _title(asked: dict[str, Any]) -> str:
    title = str(asked.get("title", "")).strip()
    if not _TITLE[0] <= len(title) <= _TITLE[1]:
        raise Refusal(400, f'"title" length must be {_TITLE[0]} to {_TITLE[1]} characters')
    return title


def _text_of(asked: dict[str, Any], name: str) -> str:
    text = asked.get(name)
    if not isinstance(text, str) or not text.strip():
        raise Refusal(400, f'"{name}" is not allowed to be empty')
    return text


def comment(hub: Hub, call: Call, repo: Repo, number: str) -> Answer:
    user, item = hub.need_user(call), _find(repo, number)
    event = _comment(_text_of(call.json(), "comment"), user)
    _append(repo, item, event)
    return as_json({"newMessage": event}, 201)


def _append(repo: Repo, item: dict[str, Any], event: dict[str, Any]) -> None:
    with repo.lock:
        item["events"].append(event)
        repo.save()


def _need_author(hub: Hub, call: Call, repo: Repo, author: str) -> str:
    user = hub.need_user(call)
    if user != author and not hub.may_write(user, repo.namespace):
        raise Refusal(403, "Only its author and those who may write to the repo may do this")
    return user


def change_comment(hub: Hub, call: Call, repo: Repo, number: str, identifier: str, action: str) -> Answer:
    """Edit a comment (its author only), or hide it for good."""
    item = _find(repo, number)
    events = (event for event in item["events"] if event["id"] == identifier and event["type"] == "comment")
    event = next(events, None)
    if event is None:
        raise Refusal(404, f"There is no comment {identifier}")
    user, author = _need_author(hub, call, repo, event["author"]["name"]), event["author"]["name"]
    with repo.lock:
        if action == "edit":
            if user != author:
                raise Refusal(403, "Only its author may edit a comment")
            event["data"] |= {"edited": True, "latest": _text(_text_of(call.json(), "content"), user)}
        else:
            event["data"] |= {"hidden": True, "latest": _text("", user)}
        repo.save()
    return as_json({"updatedComment": event})


def retitle(hub: Hub, call: Call, repo: Repo, number: str) -> Answer:
    item = _find(repo, number)
    user, title = _need_author(hub, call, repo, item["author"]), _title(call.json())
    event = _event("title-change", user, **{"from": item["title"], "to": title})
    item["title"] = title
    _append(repo, item, event)
    return as_json({"newTitle": event})


def set_status(hub: Hub, call: Call, repo: Repo, number: str) -> Answer:
    item, asked = _find(repo, number), call.json()
    user, status = _need_author(hub, call, repo, item["author"]), asked.get("status")
    if status not in ("open", "closed"):
        raise Refusal(400, '"status" must be one of [open, closed]')
    if item["status"] == "merged":
        raise Refusal(400, "This pull request is merged")
    if asked.get("comment"):
        _append(repo, item, _comment(asked["comment"], user))
    event = _event("status-change", user, status=status)
    item["status"] = status
    _append(repo, item, event)
    return as_json({"newStatus": event})


def merge(hub: Hub, call: Call, repo: Repo, number: str) -> Answer:
    """Squash a pull request into one commit on its base, by a three-way merge."""
    item = _find(repo, number)
    user = hub.need_writer(call, repo)
    if not item["pull"]:
        raise Refusal(400, "This is not a pull request")
    with repo.committing(item["base"], hub.options.wait):
        call.linger()
        if item["status"] != "open":
            raise Refusal(400, f"This pull request is {item['status']}; only an open one can be merged")
        sha = _squash(repo, item, user)
        with repo.lock:
            text = call.json().get("comment")
            item["events"] += [_comment(text, user)] if text else []
            item["events"].append(_event("status-change", user, status="merged"))
            item |= {"status": "merged", "merged": sha}
            repo.save()
    return as_json({"success": True})


def _squash(repo: Repo, item: dict[str, Any], user: str) -> str:
    git = repo.git
    base, head = git.head(item["base"]), git.head(_ref(item))
    if base is None or head is None:
        raise Refusal(409, "a branch of this pull request is gone")
    tree, conflicts = git.merge_tree(base, head)
    if conflicts:
        raise Refusal(409, f"This pull request has conflicts in {', '.join(conflicts)}")
    listed = "\n".join(f"- {commit.title} ({commit.sha})" for commit in git.log(f"{base}..{head}"))
    message = f"{item['title']} (#{item['num']})\n\n{listed}\n"
    sha = git.commit_tree(tree, parent=base, author=user, message=message)
    if not git.move(item["base"], sha, base):
        raise Refusal(409, "The branch was updated meanwhile. Please retry.")
    return sha
