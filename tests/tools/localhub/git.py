"""Bare repositories through the git command: trees, commits, references, three-way merges."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from localhub.lfs import POINTER_MAX, POINTER_MIN, Pointer

ABSENT = "0" * 40
SHA = re.compile(r"[0-9a-f]{40}")
_KEPT_BYTES = 1 << 16  # of an answer about objects that is kept
_NO_NAME = re.compile(r"[\s~^:?*\[\\\0]|\.\.|@\{|/$")  # git would read an expression, not a name
_CONFIG = {"core.fsync": "none", "gc.auto": "0", "core.quotePath": "false"}


class GitError(RuntimeError):
    """A git command failed: its arguments and what it said."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a directory of a tree; `size` is the blob's own, `lfs` what the blob points to."""

    path: str
    kind: str
    oid: str
    size: int
    lfs: Pointer | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit of a history; `when` in seconds since 1970."""

    sha: str
    author: str
    when: int
    message: str

    @property
    def title(self) -> str:
        return self.message.partition("\n")[0]


class Tree:
    """Everything below the root of one commit, by path, in git's order."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = {entry.path: entry for entry in entries}
        self._children: dict[str, list[Entry]] = {"": []}
        for entry in self.entries.values():
            if entry.kind == "directory":
                self._children.setdefault(entry.path, [])
            self._children.setdefault(entry.path.rpartition("/")[0], []).append(entry)

    def files(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.kind == "file"]

    def below(self, folder: str, recursive: bool) -> list[Entry] | None:
        """What `folder` holds; None where there is no such folder."""
        if folder not in self._children:
            return None
        if not recursive:
            return self._children[folder]
        prefix = f"{folder}/" if folder else ""
        return [entry for entry in self.entries.values() if entry.path.startswith(prefix)]


class GitRepo:
    """One bare repository. Objects are immutable, so what was once said about them is kept: a process costs more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._trees: dict[str, Tree] = {}
        self._pointers: dict[str, Pointer | None] = {}
        self._said: dict[tuple[str, ...], bytes] = {}
        self.filters: dict[str, dict[str, str]] = {}  # by the index of .gitattributes files, of each path asked about
        self._mark = uuid.uuid4().hex  # titles of commits may hold anything but this
        self._lock = threading.Lock()
        self._env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "GIT_DIR": str(path),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ATTR_NOSYSTEM": "1",
            "LC_ALL": "C",
            "TZ": "UTC",
            "GIT_COMMITTER_NAME": "hub",
            "GIT_COMMITTER_EMAIL": "hub@localhost",
        }

    @classmethod
    def create(cls, path: Path) -> GitRepo:
        """An empty repository whose head is main."""
        repo = cls(path)
        path.mkdir(parents=True)
        repo.run("init", "--quiet", "--bare", "--template=", "--initial-branch=main")
        with (path / "config").open("a", encoding="utf-8") as config:
            for name, value in _CONFIG.items():
                section, _, key = name.partition(".")
                config.write(f"[{section}]\n\t{key} = {value}\n")
        return repo

    def copy(self, path: Path) -> GitRepo:
        """The same at another place."""
        shutil.copytree(self.path, path)
        other = GitRepo(path)
        other._trees |= self._trees
        other._pointers |= self._pointers
        other._said |= self._said
        return other

    def delete(self) -> None:
        shutil.rmtree(self.path)

    def run(self, *args: str, given: bytes = b"", ok: tuple[int, ...] = (0,), env: Mapping[str, str] = {}) -> bytes:
        """Run ``git ARGS`` in this repository and return what it printed."""
        done = subprocess.run(["git", *args], input=given, capture_output=True, env={**self._env, **env}, check=False)
        if done.returncode not in ok:
            raise GitError(f"git {' '.join(args)}: {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout

    def ask(self, *args: str, ok: tuple[int, ...] = (0,)) -> bytes:
        """The same for a command that names objects by their hashes alone, and none that may be missing: run once."""
        said = self._said.get(args)
        if said is None:
            said = self.run(*args, ok=ok)
            if len(said) <= _KEPT_BYTES:
                self._said[args] = said
        return said

    # References

    def head(self, ref: str) -> str | None:
        """The commit a full reference name points to; tags are peeled."""
        if _NO_NAME.search(ref):
            return None
        if ref.startswith(("refs/heads/", "refs/pr/")):
            try:
                return (self.path / ref).read_text("ascii").strip()
            except OSError:
                pass  # packed, or not there
        said = self.run("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", ok=(0, 1, 128))
        return said.decode().strip() or None

    def has_commit(self, sha: str) -> bool:
        try:
            return self.ask("cat-file", "-t", sha) == b"commit\n"
        except GitError:  # not there yet
            return False

    def refs(self, prefix: str) -> dict[str, str]:
        """Full name -> commit of the references below `prefix`."""
        said = self.run("for-each-ref", "--format=%(refname) %(objectname) %(*objectname)", prefix).decode()
        rows = (line.split(" ") for line in said.splitlines())
        return {name: peeled or oid for name, oid, peeled in rows}

    def move(self, ref: str, new: str, old: str) -> bool:
        """Point `ref` to `new` if it still points to `old` (`ABSENT`: not there yet): compare and swap."""
        try:
            self.run("update-ref", ref, new, old)
        except GitError:
            return False
        return True

    def is_ref_name(self, ref: str) -> bool:
        try:
            self.run("check-ref-format", ref)
        except GitError:
            return False
        return True

    # Objects

    def blob(self, oid: str) -> bytes:
        return self.ask("cat-file", "blob", oid)

    def blobs(self, oids: Iterable[str]) -> dict[str, bytes]:
        """The contents of many blobs from one process."""
        wanted = list(dict.fromkeys(oids))
        if not wanted:
            return {}
        said = self.run("cat-file", "--batch", given="".join(f"{oid}\n" for oid in wanted).encode())
        found, at = {}, 0
        for oid in wanted:
            end = said.index(b"\n", at)
            size = int(said[at:end].split()[2])
            found[oid] = said[end + 1 : end + 1 + size]
            at = end + size + 2
        return found

    def write_blob(self, data: bytes) -> str:
        return self.run("hash-object", "-w", "--stdin", given=data).decode().strip()

    def tree(self, sha: str) -> Tree:
        """The tree of a commit or tree object."""
        tree = self._trees.get(sha)
        if tree is None:
            tree = self._read_tree(sha)
            with self._lock:
                if len(self._trees) >= 64:
                    self._trees.clear()
                self._trees[sha] = tree
        return tree

    def _read_tree(self, sha: str) -> Tree:
        said = self.run("ls-tree", "-r", "-t", "-l", "-z", "--full-tree", sha).decode("utf-8", "surrogateescape")
        rows = []
        for line in said.split("\0")[:-1]:
            meta, _, path = line.partition("\t")
            _, kind, oid, size = meta.split()
            rows.append((path, kind, oid, 0 if size == "-" else int(size)))
        pointers = self._read_pointers(
            oid for _, kind, oid, size in rows if kind == "blob" and POINTER_MIN <= size <= POINTER_MAX
        )
        kinds = {"blob": "file", "tree": "directory"}
        return Tree(Entry(path, kinds[kind], oid, size, pointers.get(oid)) for path, kind, oid, size in rows)

    def _read_pointers(self, oids: Iterable[str]) -> dict[str, Pointer | None]:
        unknown = [oid for oid in oids if oid not in self._pointers]
        for oid, data in self.blobs(unknown).items():
            self._pointers[oid] = Pointer.parse(data)
        return self._pointers

    # History

    def write_commit(
        self, changes: Mapping[str, bytes | None], *, parent: str | None, author: str, message: str
    ) -> str:
        """Commit `changes` (path -> new content, None to delete) on `parent`; no reference knows of it yet.

        One ``git fast-import``, whatever the number of files.
        """
        scratch, text = f"refs/scratch/{uuid.uuid4().hex}", message.encode("utf-8", "replace")
        stamp = f"{author} <{author}@localhost> {int(time.time())} +0000"
        parts = [
            f"commit {scratch}\nmark :1\nauthor {stamp}\ncommitter {stamp}\ndata {len(text)}\n".encode() + text + b"\n"
        ]
        if parent is not None:
            parts.append(f"from {parent}\n".encode())
        parts += [f"D {_quoted(path)}\n".encode() for path, data in changes.items() if data is None]
        for path, data in changes.items():
            if data is not None:
                parts += [f"M 100644 inline {_quoted(path)}\ndata {len(data)}\n".encode(), data, b"\n"]
        parts.append(f"\nget-mark :1\nreset {scratch}\nfrom {ABSENT}\n".encode())
        return self.run("fast-import", "--quiet", given=b"".join(parts)).decode().strip()

    def log(self, sha: str, *args: str) -> list[Commit]:
        """The history of `sha`, newest first; `args` go to ``git log``."""
        said = self.ask("log", "-z", "--format=%H%n%an%n%ct%n%B", *args, sha).decode("utf-8", "replace")
        rows = (record.split("\n", 3) for record in said.split("\0") if record)
        return [Commit(sha, author, int(when), message.strip()) for sha, author, when, message in rows]

    def parent(self, sha: str) -> str | None:
        """The first parent; None of a root."""
        said = self.ask("rev-parse", "--verify", "--quiet", f"{sha}^", ok=(0, 1, 128))
        return said.decode().strip() or None

    def last_changes(self, sha: str) -> dict[str, Commit]:
        """For each path, directories included, the newest commit that touched it."""
        mark = self._mark
        shown = ("--name-only", "-z", f"--format={mark}%H%n%an%n%ct%n%s")
        said = self.ask("log", "--first-parent", "-m", "--root", *shown, sha).decode("utf-8", "surrogateescape")
        newest: dict[str, Commit] = {}
        for record in said.split(mark)[1:]:
            head, _, names = record.partition("\0")
            oid, author, when, title = head.split("\n", 3)
            commit = Commit(oid, author, int(when), title)
            for name in names.lstrip("\n").split("\0"):
                while name:
                    newest.setdefault(name, commit)
                    name = name.rpartition("/")[0]
        return newest

    # Merging

    def merge_base(self, one: str, other: str) -> str | None:
        return self.ask("merge-base", one, other, ok=(0, 1)).decode().strip() or None

    def merge_tree(self, ours: str, theirs: str) -> tuple[str, list[str]]:
        """The three-way merge as a tree, and the paths in conflict (none: the tree is the merge)."""
        said = self.ask(
            "merge-tree", "--write-tree", "--name-only", "--no-messages", "-z", ours, theirs, ok=(0, 1)
        ).decode("utf-8", "surrogateescape")
        tree, *names = said.split("\0")
        return tree, sorted({name for name in names if name})

    def commit_tree(self, tree: str, *, parent: str, author: str, message: str) -> str:
        """A commit of `tree` on `parent`, of which no reference knows yet."""
        who = {"GIT_AUTHOR_NAME": author, "GIT_AUTHOR_EMAIL": f"{author}@localhost"}
        return self.run("commit-tree", tree, "-p", parent, given=message.encode(), env=who).decode().strip()

    def diff(self, old: str, new: str) -> str:
        return self.ask("diff", "--no-color", old, new).decode("utf-8", "replace")


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
