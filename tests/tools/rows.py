"""Rows that are changed from one that was computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llreg.store.arrays import UNSCORED
from llreg.store.rowfile import Row, make_row
from llreg.texts.segments import Cuts


def without_texts(row: Row, texts: Sequence[int], cuts: Cuts, *, shift: int = 0, **provenance: Any) -> Row:
    """The row without values of some texts, for no reason given; those of the others higher by so many nats, if any."""
    arrays = {name: array.copy() for name, array in row.arrays.items()}
    is_lost = np.isin(cuts.text, texts)
    for name, array in arrays.items():
        if name.startswith("segment_"):
            array[cuts.first[:-1]] += 256 * shift
            array[is_lost] = UNSCORED
        elif name.startswith("log_"):
            array += np.float32(shift)
            array[texts] = np.nan
        else:
            array[texts] = 0
    counts = {name.replace("num_", ""): int(array.sum()) for name, array in arrays.items() if "num_tokens" in name}
    return make_row(row.record.identity, {**row.record.provenance, **counts, **provenance}, row.record.declared, arrays)
