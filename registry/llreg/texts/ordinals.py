"""Which pieces a recipe takes, as ordinals among the kept ones: nothing else of them need be held."""

from __future__ import annotations

import random

from llreg.texts.recipe import Sample
from llreg_schemas.errors import InputError


def ordinals(sample: Sample, population: int, *, spare: bool = False) -> list[int]:
    """Ordinals of the drawn pieces, in the order of the sample.

    ``random.Random(seed).sample(range(n), k)`` picks the positions that ``random.seed(seed); random.sample(pieces, k)``
    picks from a list of n pieces: Python's sample chooses positions, whatever lies there.

    Parameters
    ----------
    sample : Sample
    population : int
        Kept pieces in all.
    spare : bool
        All that are drawn, not only those that are taken: to fill the places of duplicates.

    Raises
    ------
    InputError
        If there are fewer pieces than are drawn.
    """
    if sample.draw > population:
        raise InputError(
            f"the sources give {population:,} pieces, and the recipe draws {sample.draw:,}: take fewer, or give more texts"
        )
    drawn = random.Random(sample.seed).sample(range(population), sample.draw)
    return drawn if spare else drawn[: sample.take]
