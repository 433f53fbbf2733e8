"""A published registry with a maintainer, and pull requests to it made with the real client alone."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from tests.hub.client import Hub

from llreg.hub.judge.verdict import Verdict
from llreg.registry import Registry
from llreg.store.rowfile import Row, row_path, to_zip

Files = Mapping[str, bytes | None]


def files_of(*rows: Row) -> dict[str, bytes]:
    """Row files by their path."""
    return {row_path(row.record).as_posix(): to_zip(row) for row in rows}


@dataclass
class Site:
    """A repository ``lab/…`` whose maintainer, alice, holds `registry`; bob is a stranger."""

    hub: Hub
    repo: str
    registry: Registry
    as_user: Callable[[str | None], None]

    def propose(self, files: Files, *, user: str = "bob", title: str = "Add rows", base: str | None = None) -> int:
        """A pull request that writes files (None deletes); its number."""
        made = self.hub.api(user).create_commit(
            self.repo,
            _operations(files),
            commit_message=title,
            repo_type="dataset",
            create_pr=True,
            parent_commit=base,
        )
        assert made.pr_num is not None
        return made.pr_num

    def amend(self, number: int, files: Files, *, user: str = "bob") -> None:
        """One more commit to a pull request."""
        self.hub.api(user).create_commit(
            self.repo,
            _operations(files),
            commit_message="More",
            repo_type="dataset",
            revision=f"refs/pr/{number}",
        )

    def rewrite(self, number: int, entries: list[tuple[str, str, bytes]]) -> None:
        """Put (mode, path, content) on main as a pull request's only commit, past all that client and Hub would refuse."""
        parts = [
            f"commit refs/pr/{number}\ncommitter bob <bob@localhost> 0 +0000\ndata 1\nx\nfrom {self.head()}\n".encode()
        ]
        for mode, path, data in entries:
            quoted = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            parts += [f'M {mode} inline "{quoted}"\ndata {len(data)}\n'.encode(), data, b"\n"]
        bare = self.hub.root / "datasets" / f"{self.repo}.git"
        command = ["git", f"--git-dir={bare}", "fast-import", "--quiet", "--force"]
        subprocess.run(command, input=b"".join(parts), check=True, capture_output=True)

    def review(self, *numbers: int, **options: Any) -> list[Verdict]:
        """What the maintainer's command does: pull, then review."""
        self.as_user("alice")
        self.registry.pull()
        return self.registry.review(numbers, **options)

    def head(self) -> str:
        """The commit that main is at."""
        return self.hub.git(self.repo, "rev-parse", "main").strip()

    def files(self, commit: str = "main") -> list[str]:
        """Files of a commit."""
        return self.hub.git(self.repo, "ls-tree", "-r", "--name-only", commit).splitlines()

    def status(self, number: int) -> str:
        """Of a pull request."""
        return self.hub.api("alice").get_discussion_details(self.repo, number, repo_type="dataset").status

    def comments(self, number: int) -> list[str]:
        """What was written under a pull request, its description left out."""
        events = self.hub.api("alice").get_discussion_details(self.repo, number, repo_type="dataset").events
        return [event.content for event in events if event.type == "comment"][1:]  # type: ignore[attr-defined]


def _operations(files: Files) -> list[CommitOperationAdd | CommitOperationDelete]:
    return [
        CommitOperationDelete(path) if data is None else CommitOperationAdd(path, data) for path, data in files.items()
    ]
