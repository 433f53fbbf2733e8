"""What `add` tells while it works, and what became of each model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class AddResult:
    """What became of one model.

    Attributes
    ----------
    model : str
        As it was given.
    status : {"added", "present", "failed"}
    row_id : str or None
        The row's id; None if the model failed.
    message : str
        One sentence for the user.
    texts, tokens : int or None
        Scored by this run; None if it scored none.
    seconds : float or None
        Time of scoring them, without loading.
    """

    model: str
    status: Literal["added", "present", "failed"]
    row_id: str | None
    message: str
    texts: int | None = None
    tokens: int | None = None
    seconds: float | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of scoring; None if nothing was scored."""
        return self.tokens / self.seconds if self.tokens and self.seconds else None

    def to_json(self) -> dict[str, Any]:
        """The result as JSON."""
        return {**asdict(self), "tokens_per_second": self.tokens_per_second}


class Reporter:
    """Told what goes on; does nothing itself. Override what you want to hear."""

    def note(self, message: str) -> None:
        """Something the user should know."""

    def look_up(self, done: int, total: int) -> None:
        """Models found and described so far, before the first is scored."""

    def begin(self, model: str) -> None:
        """A model's turn: it is loaded."""

    def start(self, model: str, tokens: int, done: int) -> None:
        """Scoring begins: tokens in all and tokens done by an earlier run."""

    def advance(self, tokens: int) -> None:
        """Tokens scored since the last call."""

    def finish(self, result: AddResult) -> None:
        """A model is done."""

    def apart(self) -> Reporter:
        """A reporter for one of several models that are scored at once, told of that one only; by default this one."""
        return self
