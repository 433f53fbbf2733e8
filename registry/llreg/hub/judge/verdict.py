"""What a review says of a pull request: findings, and what was measured of each new row."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from llreg.geometry.neighbors import Neighbor
    from llreg.verify.comparison import Agreement

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


@dataclass(frozen=True)
class Replicate:
    """An accepted row with the identity of a new one, and how far their values agree.

    Attributes
    ----------
    row_id : str
    kl, bound : float
        Their KL divergence, and the largest that the arithmetic of their dtypes is likely to show, nats per text.
    max_difference, rms_difference : float
        Of the log-likelihoods of one text, nats; NaN where no text is shared.
    num_texts : int
        Texts of the view that both have.
    """

    row_id: str
    kl: float
    bound: float
    max_difference: float
    rms_difference: float
    num_texts: int

    @property
    def agrees(self) -> bool:
        """Whether their arithmetic explains all of the difference."""
        return self.distance <= self.bound

    @property
    def distance(self) -> float:
        """Half the mean square difference, or the KL where that is more, nats per text; NaN where it is not known.

        KL is half the variance, which a constant that is added to all texts leaves as it is.
        """
        return math.nan if math.isnan(self.kl) else max(self.kl, self.rms_difference**2 / 2)


@dataclass(frozen=True)
class Measured:
    """What was measured of a new row against the registry's.

    Attributes
    ----------
    row_id, model, file : str
    shared, least : int
        Texts of the view that it shares with one of the registry's own rows, at most; and how many it takes to compare.
    mean, spread : float
        Minus log-likelihood, bits per byte: its mean, and its standard deviation over texts; NaN if it has no value there.
    mean_z, spread_z : float
        How unusual these are here: robust z; NaN where there are too few rows.
    far_share : float
        Share of the pairs of rows here that are at least as far apart as this row is from its nearest; NaN as above.
    nearest, bases, siblings : sequence of Neighbor
        Nearest rows; rows of the declared base models; rows of the same model that were measured otherwise.
    missing_bases : sequence of str
        Declared base models that have no row here.
    replicates : sequence of Replicate
    recomputed : Agreement or None
    """

    row_id: str
    model: str
    file: str
    shared: int
    least: int
    mean: float
    spread: float
    mean_z: float
    spread_z: float
    far_share: float
    nearest: Sequence[Neighbor]
    bases: Sequence[Neighbor]
    siblings: Sequence[Neighbor]
    missing_bases: Sequence[str]
    replicates: Sequence[Replicate]
    recomputed: Agreement | None = None


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
