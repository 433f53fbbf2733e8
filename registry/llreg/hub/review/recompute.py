"""Score a few texts of a pull request's rows afresh: the only check of them that nobody can forge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from llreg.verify.verify import score_again
from llreg_schemas import sha256_text

if TYPE_CHECKING:
    from llreg.hub.judge.verdict import Level, Verdict
    from llreg.store.contents import Contents
    from llreg_schemas import RowRecord

_MOST_ROWS = 5  # of a pull request: each is a model to download and load
_MOST_PARAMETERS = 16e9  # 32 GB of bfloat16: what a stranger's row may make this machine download
_LEVELS: dict[str, Level] = {"match": "note", "mismatch": "refused", "inconclusive": "attention"}


def recompute_some(verdict: Verdict, registry: Contents, records: Sequence[RowRecord], k: int) -> None:
    """Recompute rows of a pull request, at random by its commit, and add what was found to its verdict.

    Digest and commit are the contributor's, but with the values they follow from each other: who wants other texts must
    change the values, or make commits until the draw misses what was forged, which a few changed texts are not worth.

    Parameters
    ----------
    verdict : Verdict
        With what was measured of each row, in the order of `records`.
    registry : Contents
        Where the rows are.
    records : sequence of RowRecord
    k : int
        Texts of each row.
    """
    rng = np.random.default_rng(int(sha256_text(verdict.head), 16))
    for at in sorted(rng.choice(len(records), min(_MOST_ROWS, len(records)), replace=False).tolist()):
        seed = f"{records[at].digest} {verdict.head}"
        found = score_again(registry, records[at], k, seed, most_parameters=_MOST_PARAMETERS)
        verdict.rows[at] = replace(verdict.rows[at], recomputed=found)
        told = f"recomputed: {found.outcome}; {found.why}" + (f" ({found.figures})" if found.figures else "")
        verdict.find(_LEVELS[found.outcome], verdict.rows[at].file, told)
    if len(records) > _MOST_ROWS:
        verdict.find("note", "", f"recomputed {_MOST_ROWS} of {len(records):,} rows, drawn at random")
