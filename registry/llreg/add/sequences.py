"""What is scored for a row: its texts, or of pairs every response behind its prompt, and then every response alone.

Journals and engines know of sequences only; those of a set of n pairs are numbered 0 to n - 1, and n to 2 n - 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import llreg_extract
from llreg.add.journal import make_entries
from llreg.store.arrays import dtype_of, is_count, row_variables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.rowfile import Row

_ENDINGS = ("", "_response")


def sequence_places(places: NDArray[np.integer], num_texts: int, *, pairs: bool) -> NDArray[np.int64]:
    """Numbers of the sequences to score for the texts at some places, ascending."""
    found = np.asarray(places, dtype=np.int64)
    return np.concatenate([found, found + num_texts]) if pairs else found


def row_arrays(entries: NDArray[Any], num_texts: int, *, pairs: bool) -> dict[str, NDArray[Any]]:
    """A row's arrays by name, from journal entries of its sequences.

    Parameters
    ----------
    entries : structured array of shape (n_entries,)
        See `llreg.add.journal`.
    num_texts : int
    pairs : bool

    Returns
    -------
    dict of float32 and int32 arrays of shape (n_texts,)
    """
    names = row_variables(pairs=pairs)
    count = num_texts * (len(names) // 2)
    values, tokens = np.full(count, np.nan, np.float32), np.zeros(count, np.int32)
    scored = entries[entries["status"] == llreg_extract.Status.SCORED]
    # Rounding must not make a probability exceed 1.
    values[scored["text"]] = np.minimum(scored["log_likelihood"], 0.0)
    tokens[scored["text"]] = scored["num_tokens"]
    parts = {
        name: (tokens if is_count(name) else values).reshape(-1, num_texts)[k // 2] for k, name in enumerate(names)
    }
    return {name: np.ascontiguousarray(part, dtype=dtype_of(name)) for name, part in parts.items()}


def row_counts(entries: NDArray[Any], num_texts: int, *, pairs: bool) -> dict[str, int]:
    """Tokens scored, and texts left out for a reason, as a row's provenance has them."""
    found: dict[str, int] = {}
    status = llreg_extract.Status
    for k, ending in enumerate(_ENDINGS[: 1 + pairs]):
        part = entries[entries["text"] // num_texts == k]
        found |= {
            f"tokens{ending}": int(part["num_tokens"][part["status"] == status.SCORED].sum()),
            f"over_context{ending}": int((part["status"] == status.OVER_CONTEXT).sum()),
            f"unscored{ending}": int((part["status"] == status.UNSCORED).sum()),
        }
    return found


def row_entries(row: Row) -> NDArray[Any]:
    """The scored sequences of a row as journal entries."""
    arrays = list(row.arrays.values())
    values, tokens = np.concatenate(arrays[::2]), np.concatenate(arrays[1::2])
    scored = np.flatnonzero(~np.isnan(values))
    return make_entries(
        scored, values[scored].astype(np.float64), tokens[scored], np.full(len(scored), llreg_extract.Status.SCORED)
    )
