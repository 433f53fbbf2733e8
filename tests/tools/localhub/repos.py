"""Users, repositories, and who may do what."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localhub import attributes
from localhub.answers import Call, Refusal, revision_not_found
from localhub.git import ABSENT, SHA, GitRepo
from localhub.lfs import LfsStore

KINDS = {"datasets": "dataset", "models": "model"}
PREFIXES = {"dataset": "datasets/", "model": ""}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}")


@dataclass
class Options:
    """What can be switched while the Hub runs.

    With `wait` a commit to a busy reference waits for its turn, otherwise it is refused with 409. Uploads above
    `multipart` bytes come in parts of that size (0: never). `tree_page`, `expand_page` and `commits_page` are items
    a page, `folder_limit` entries a directory, `slow` the seconds of the fault of that name.
    """

    wait: bool = False
    multipart: int = 0
    tree_page: int = 1000
    expand_page: int = 100
    commits_page: int = 50
    discussions_page: int = 20
    folder_limit: int = 10_000
    slow: float = 0.5


@dataclass
class Repo:
    """A repository: git, large objects, discussions, settings. `meta` is what the JSON file beside it holds."""

    kind: str
    namespace: str
    name: str
    folder: Path
    meta: dict[str, Any] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.git = GitRepo(self.folder / f"{self.name}.git")
        self.lfs = LfsStore(self.folder / f"{self.name}.lfs")
        self._busy: dict[str, threading.Lock] = {}

    @property
    def id(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def web_path(self) -> str:
        return f"{PREFIXES[self.kind]}{self.id}"

    @property
    def discussions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.meta["discussions"]
        return found

    def save(self) -> None:
        path = self.folder / f"{self.name}.json"
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(self.meta), encoding="utf-8")
        os.replace(partial, path)

    def resolve(self, rev: str, stale: bool = False) -> str:
        """The commit a revision names: a full sha, a branch, a tag, refs/pr/N. `stale`: what it named before."""
        if SHA.fullmatch(rev):
            if self.git.has_commit(rev):
                return rev
            raise revision_not_found(rev)
        names = [rev] if rev.startswith("refs/") else [f"refs/heads/{rev}", f"refs/tags/{rev}"]
        for name in names:
            head = self.git.head(name)
            if head is not None:
                return (self.git.parent(head) or head) if stale and not name.startswith("refs/tags/") else head
        raise revision_not_found(rev)

    def branch(self, rev: str) -> str:
        """The full name of the branch or pull request that commits to `rev` go to."""
        name = rev if rev.startswith("refs/") else f"refs/heads/{rev}"
        if not name.startswith(("refs/heads/", "refs/pr/")) or self.git.head(name) is None:
            raise revision_not_found(rev)
        return name

    @contextmanager
    def committing(self, ref: str, wait: bool) -> Iterator[None]:
        """Hold `ref` for one commit; 409 where another one holds it, unless it may wait."""
        with self.lock:
            busy = self._busy.setdefault(ref, threading.Lock())
        if not busy.acquire(blocking=wait):
            raise Refusal(409, "Another commit to this reference is in progress. Please retry.")
        try:
            yield
        finally:
            busy.release()

    def delete(self) -> None:
        self.git.delete()
        shutil.rmtree(self.lfs.path, ignore_errors=True)
        (self.folder / f"{self.name}.json").unlink()


class Hub:
    """All repositories below a folder, and the users who have a token."""

    def __init__(self, root: Path, users: Mapping[str, str], orgs: Mapping[str, Mapping[str, str]]) -> None:
        """`users` maps names to tokens ("alice:read" is a token of alice's that may only read), `orgs` maps
        organisations to the roles of their members (admin, write, read)."""
        self.root = root
        self.tokens = {token: name.partition(":")[::2] for name, token in users.items()}
        self.users = {name for name, _ in self.tokens.values()}
        self.orgs = orgs
        self.options = Options()
        self.secret = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._repos: dict[str, Repo] = {}
        for path in root.glob("*/*/*.json"):
            kind = KINDS.get(path.parts[-3])
            if kind:
                repo = Repo(kind, path.parent.name, path.stem, path.parent, json.loads(path.read_text("utf-8")))
                self._repos[f"{kind}s/{repo.id}"] = repo

    # Who

    def identify(self, call: Call) -> None:
        """Set user and role by the token; an unknown token is refused wherever it is used."""
        scheme, _, token = call.headers.get("Authorization", "").partition(" ")
        if not token or scheme.lower() != "bearer":
            return
        if token not in self.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        name, role = self.tokens[token]
        call.user, call.role = name, role or "write"

    def may_write(self, user: str | None, namespace: str) -> bool:
        return user is not None and (
            user == namespace or self.orgs.get(namespace, {}).get(user) in ("admin", "write", "contributor")
        )

    def may_read(self, user: str | None, repo: Repo) -> bool:
        return not repo.meta["private"] or user == repo.namespace or user in self.orgs.get(repo.namespace, {})

    def has_gate_key(self, user: str | None, repo: Repo) -> bool:
        return not repo.meta["gated"] or self.may_write(user, repo.namespace) or user in repo.meta["granted"]

    def need_user(self, call: Call) -> str:
        """The logged-in user, whose token may write."""
        if call.user is None:
            # Over https the client takes a bare 401 on such a path for a missing repository; here it needs the code.
            code = "RepoNotFound" if call.raw_path.startswith(("/api/datasets/", "/api/models/")) else ""
            raise Refusal(401, "Invalid username or password.", code)
        if call.role == "read":
            raise Refusal(403, "Authorization error: this token may only read")
        return call.user

    def need_writer(self, call: Call, repo: Repo, hint: str = "You don't have write access to this repo") -> str:
        user = self.need_user(call)
        if not self.may_write(user, repo.namespace):
            raise Refusal(403, hint)
        return user

    def need_gate_key(self, call: Call, repo: Repo) -> None:
        if not self.has_gate_key(call.user, repo):
            status, who = (401, "You must be authenticated") if call.user is None else (403, "Ask for access")
            text = f"Access to {repo.kind} {repo.id} is restricted. {who} to access it."
            raise Refusal(status, text, "GatedRepo")

    # What

    def find(self, call: Call, kind: str, namespace: str, name: str) -> Repo:
        """A repository that the caller may read; a private one looks missing to others."""
        repo = self._repos.get(f"{kind}s/{namespace}/{name}")
        if repo is None or not self.may_read(call.user, repo):
            if call.user is None:
                raise Refusal(401, "Invalid username or password.", "RepoNotFound")
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return repo

    def known(self, kind: str, namespace: str, name: str) -> Repo:
        """A repository whoever asks."""
        if not self.exists(kind, namespace, name):
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return self._repos[f"{kind}s/{namespace}/{name}"]

    def exists(self, kind: str, namespace: str, name: str) -> bool:
        return f"{kind}s/{namespace}/{name}" in self._repos

    def create(self, kind: str, namespace: str, name: str, user: str, private: bool) -> Repo | None:
        """A new repository with its first commit; None where there is one of that name."""
        if not _NAME.fullmatch(name):
            raise Refusal(400, f"Invalid repo name: {name}")
        with self._lock:
            if self.exists(kind, namespace, name):
                return None
            folder = self.root / f"{kind}s" / namespace
            meta = {"private": private, "gated": False, "granted": [], "createdAt": time.time(), "discussions": []}
            repo = Repo(kind, namespace, name, folder, meta)
            GitRepo.create(repo.git.path)
            first = {".gitattributes": attributes.default(kind)}
            sha = repo.git.write_commit(first, parent=None, author=user, message="initial commit")
            repo.git.move("refs/heads/main", sha, ABSENT)
            repo.save()
            self._repos[f"{kind}s/{repo.id}"] = repo
        return repo

    def copy(self, source: str, target: str) -> None:
        """Make the dataset `target` ("org/name"), as `source` is."""
        with self._lock:
            old, (namespace, name) = self._repos[f"datasets/{source}"], target.split("/")
            folder = self.root / "datasets" / namespace
            repo = Repo("dataset", namespace, name, folder, json.loads(json.dumps(old.meta)))
            repo.git = old.git.copy(repo.git.path)
            shutil.copytree(old.lfs.path, repo.lfs.path)
            repo.save()
            self._repos[f"datasets/{repo.id}"] = repo

    def delete(self, repo: Repo) -> None:
        with self._lock:
            del self._repos[f"{repo.kind}s/{repo.id}"]
            repo.delete()
