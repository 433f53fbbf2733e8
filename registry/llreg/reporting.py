"""What `add` tells while it works, and what became of each model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
    """

    model: str
    status: Literal["added", "present", "failed"]
    row_id: str | None
    message: str


class Reporter:
    """Told what goes on; does nothing itself. Override what you want to hear."""

    def note(self, message: str) -> None:
        """Something the user should know."""

    def begin(self, model: str) -> None:
        """A model's turn: it is looked up and loaded."""

    def start(self, model: str, tokens: int, done: int) -> None:
        """Scoring begins: tokens in all and tokens done by an earlier run."""

    def advance(self, tokens: int) -> None:
        """Tokens scored since the last call."""

    def finish(self, result: AddResult) -> None:
        """A model is done."""
