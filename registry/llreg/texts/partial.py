"""An unfinished build, kept beside its output: a killed run goes on from there."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from llreg.texts.recipe import Recipe
from llreg_schemas import hash_json
from llreg_schemas.errors import storage_errors

SAVE_SECONDS = 30.0  # at least so often
_SHARE = 20  # a save that takes long is made so much more rarely
_FORMAT = "llreg-partial-texts-1"


class Piece(NamedTuple):
    """A text that was taken: document over all sources, piece, where it stands for messages, and what is written."""

    document: int
    piece: int
    place: str
    text: str
    subset: str
    source: str


@dataclass(frozen=True)
class Mark:
    """How far a build is; never changed, so that an interrupt finds an old one or a new one.

    Attributes
    ----------
    population : int, optional
        Kept pieces in all, once they are counted or if the recipe says so; None while counting.
    counted : int
        Documents that counting went through.
    source : int
        Number of the source.
    position : mapping, optional
        Where its stream stopped.
    document : int
        Documents of this source that are done.
    documents, kept : int
        Documents and kept pieces of all sources so far.
    """

    population: int | None = None
    counted: int = 0
    source: int = 0
    position: dict[str, Any] | None = None
    document: int = 0
    documents: int = 0
    kept: int = 0


@dataclass
class Partial:
    """The file of an unfinished build.

    Attributes
    ----------
    path : Path
    key : str
        Of the recipe and its files: another one's state is of no use.
    mark : Mark
        Up to here the pieces are complete; there may be more of them.
    pieces : dict of int to Piece
        By place in the sample.
    """

    path: Path
    key: str
    mark: Mark = field(default_factory=Mark)
    pieces: dict[int, Piece] = field(default_factory=dict)
    _due: float = field(default_factory=lambda: time.monotonic() + SAVE_SECONDS)

    def load(self) -> bool:
        """Take up what is in the file; False if that is of another recipe, or damaged."""
        try:
            document = json.loads(self.path.read_bytes())
            if document["format"] != _FORMAT or document["key"] != self.key:
                return False
            mark, pieces = Mark(**document["mark"]), {int(k): Piece(*value) for k, value in document["pieces"]}
        except (OSError, ValueError, KeyError, TypeError):
            return False
        self.mark, self.pieces = mark, pieces
        return True

    def save_if_due(self) -> None:
        """Save, unless that was done a moment ago."""
        if time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Write the file; a reader finds the old or the new one.

        Raises
        ------
        StorageError
        """
        begun = time.monotonic()
        document = {"format": _FORMAT, "key": self.key, "mark": asdict(self.mark), "pieces": list(self.pieces.items())}
        temp = self.path.with_name(self.path.name + ".new")
        with storage_errors(self.path):
            temp.write_text(json.dumps(document), encoding="utf-8")
            os.replace(temp, self.path)
        spent = time.monotonic() - begun
        self._due = begun + max(SAVE_SECONDS, _SHARE * spent)

    def remove(self) -> None:
        """Nothing is unfinished any more."""
        self.path.unlink(missing_ok=True)


def key_of(recipe: Recipe) -> str:
    """What an unfinished build must agree with: the recipe, and size and time of its files."""
    names = [Path(name).expanduser() for source in recipe.sources for name in source.files]
    stats = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in names]
    return hash_json({"recipe": recipe.id, "files": stats})
