"""A table of values as a file holds it: what readers of `.npz`, CSV and Parquet files make, and the columns they know."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VALUES = "log_likelihood"
MODEL = ("model_id", "model", "models", "model_name", "name")  # in an export `model` is the row's id
ABOUT = (
    "revision",
    "weight_dtype",
    "quantization",
    "base_model",
    "relation",
    "licence",
    "architecture",
    "num_parameters",
    "created",
)
TEXT = ("text_sha256", "text", "text_index")
STAMP = ("text_set", "protocol", "values")  # what an export of llreg says that it is of
MISSING = {"", "nan", "na", "n/a", "none", "null"}
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class Table:
    """A table as it was read.

    Attributes
    ----------
    models : sequence of str
    values : sequence of array
        One a model, of shape (n_texts,), nats.
    texts : sequence of str or None
        Index or sha256 of the text of each value; None where they are in the registry's order, or have titles.
    about : mapping of str to sequence
        Columns of `ABOUT`, one entry a model.
    stamp : mapping of str to str
        Of `STAMP`, where the file says it: ids, perhaps cut short, and "raw" or "view".
    titles : sequence of str or None
        Of the columns of values, where each is a column; what they say of texts, `llreg.importers.titles` reads.
    """

    models: Sequence[str]
    values: Sequence[NDArray[np.generic]]
    texts: Sequence[str] | None
    about: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    stamp: Mapping[str, str] = field(default_factory=dict)
    titles: Sequence[str] | None = None

    def cell(self, column: str, k: int) -> Any:
        """What a column of `ABOUT` says of model `k`; None where it says nothing."""
        value = self.about[column][k] if column in self.about else None
        return None if isinstance(value, str) and value.strip().lower() in MISSING else value


@dataclass(frozen=True)
class Format:
    """A file format of tables.

    Attributes
    ----------
    read : callable
        Called with the file's bytes and its name for messages; raises InputError if they are no such table.
    help : str
        What ``llreg import FORMAT --help`` says.
    """

    read: Callable[[bytes, str], Table]
    help: str


def text_columns(titles: Sequence[str]) -> list[int]:
    """Which columns hold values: those titled ``t`` and an index, as in an export of llreg, or else all that say nothing else."""
    about = {*MODEL, *ABOUT, *STAMP}
    exported = [k for k, title in enumerate(titles) if re.fullmatch(r"t\d+", title)]
    return exported or [k for k, title in enumerate(titles) if title.lower() not in about]
