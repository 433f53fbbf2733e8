"""What a review says of a pull request: its findings, and what was measured of each new row."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from llreg.hub.judge.measure import Measured

Level = Literal["refused", "attention", "note"]
State = Literal["good", "attention", "refused"]


@dataclass(frozen=True)
class Finding:
    """Something a review found.

    Attributes
    ----------
    level : {"refused", "attention", "note"}
        It keeps the pull request out, asks for a person, or only informs.
    file : str
        Path in the repository, untrusted; "" where it is about no file.
    message : str
        What was expected and what came; it may quote what strangers wrote.
    """

    level: Level
    file: str
    message: str


@dataclass
class Verdict:
    """The review of one pull request.

    Attributes
    ----------
    repo : str
        ``org/name``.
    number : int
    title, author : str
        Untrusted.
    head, base : str
        Its commit, 40 hex digits, and the newest one that it shares with main; "" if there is none.
    version, num_rows
        Version and rows of the registry that it was compared with.
    findings : list of Finding
    new_rows : list of str
        Row ids that it adds.
    rows : list of Measured
        What was measured of them; empty where a file is refused.
    paths : list of str
        Files that a merge takes over.
    merged : str or None
        The commit that took them over.
    closed : bool
        Whether this review closed it.
    commented : bool
        Whether this review wrote a comment.
    """

    repo: str
    number: int
    title: str
    author: str
    head: str
    base: str = ""
    version: str = ""
    num_rows: int = 0
    findings: list[Finding] = field(default_factory=list)
    new_rows: list[str] = field(default_factory=list)
    rows: list[Measured] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    merged: str | None = None
    closed: bool = False
    commented: bool = False

    @property
    def state(self) -> State:
        """The worst of its findings: "good" (notes at most), "attention" or "refused"."""
        return "refused" if self.has("refused") else "attention" if self.has("attention") else "good"

    @property
    def is_empty(self) -> bool:
        """Whether all that it adds is in main already."""
        return not self.paths and self.state == "good"

    @property
    def is_settled(self) -> bool:
        """Whether nobody needs to look: it is good, or was merged or closed."""
        return self.state == "good" or self.merged is not None or self.closed

    def has(self, level: Level) -> bool:
        """Whether there is a finding of that level."""
        return any(finding.level == level for finding in self.findings)

    def find(self, level: Level, file: str, message: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(level, file, message))

    def to_json(self) -> dict[str, Any]:
        """The verdict as JSON; NaN where something is not known."""
        return {
            "repo": self.repo,
            "number": self.number,
            "title": self.title,
            "author": self.author,
            "state": self.state,
            "empty": self.is_empty,
            "head": self.head,
            "base": self.base,
            "version": self.version,
            "findings": [vars(finding) for finding in self.findings],
            "new_rows": self.new_rows,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "files": self.paths,
            "merged": self.merged,
            "closed": self.closed,
            "commented": self.commented,
        }
