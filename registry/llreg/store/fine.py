"""Fine coordinates: numbers in which rows differ as their segments do, less what a whole text's difference explains.

Half the mean over texts of the squared distances of two rows' coordinates of a text estimates the KL divergence that
next-token distributions have, summed over the text. What is left out is the drift, a text's difference spread evenly over
its bytes: one model is better at a language or a topic, which is no divergence. Small text sets keep a coordinate a
segment; of larger ones it is a few sums of segments with signs, whose squares have the same mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llreg.store.arrays import FINE_VARIABLES, SEGMENT_VARIABLES, UNKNOWN, UNSCORED, dtype_of, is_count
from llreg.store.rowfile import Row
from llreg.store.zarr_profile import StoreForm
from llreg.texts.segments import Cuts
from llreg_schemas.records import RESOLUTION, RegistryInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COORDINATES = 16_384  # a row's, where texts are few: 64 KiB


def num_coordinates(num_texts: int, num_segments: int) -> int:
    """Fine coordinates of a row, of a text set of so many texts and segments; 0 without segments."""
    return num_segments if num_segments <= COORDINATES else num_texts * _num_probes(num_texts)


def _num_probes(num_texts: int) -> int:
    """Signed sums a text, in a text set that has too many segments for a coordinate each."""
    return max(1, COORDINATES // num_texts)


def store_form(info: RegistryInfo) -> StoreForm:
    """What registry.json implies of the store."""
    num_texts, num_segments = info.text_set.num_texts, info.num_segments
    return StoreForm(num_texts, num_coordinates(num_texts, num_segments), info.has_pairs)


class FineMap:
    """From a row's segments to its fine coordinates: linear in each text, and the same on every machine.

    Parameters
    ----------
    document : mapping
        What registry.json says of segments.
    cuts : Cuts

    Attributes
    ----------
    cuts : Cuts
    text : int32 array of shape (n_coordinates,)
        The text of each coordinate, ascending.
    """

    def __init__(self, document: Mapping[str, Any], cuts: Cuts) -> None:
        import numpy as np

        self._id, self.cuts = str(document["id"]), cuts
        self._is_exact = cuts.num_segments <= COORDINATES
        probes = _num_probes(cuts.num_texts)
        self.text: NDArray[np.int32] = (
            cuts.text if self._is_exact else np.repeat(np.arange(cuts.num_texts, dtype=np.int32), probes)
        )

    def coordinates(self, segments: NDArray[np.int32]) -> NDArray[np.float32]:
        """A row's fine coordinates.

        Parameters
        ----------
        segments : int32 array of shape (n_segments,), in units of 1/256 nat
            `UNSCORED` in texts that were not scored.

        Returns
        -------
        float32 array of shape (n_coordinates,), nats
            NaN in texts that were not scored.
        """
        import numpy as np

        cuts = self.cuts
        scored = segments[cuts.first[:-1]] != UNSCORED  # (n_texts,)
        # Sums of integers are exact: only single operations on float64 round, everywhere alike.
        sums = np.where(scored, cuts.sums(segments), np.nan)  # (n_texts,)
        slopes = sums / np.maximum(self._num_bytes, 1)  # (n_texts,), units a byte: the drift
        if self._is_exact:
            values = segments - cuts.sizes * slopes[cuts.text]  # (n_segments,)
            values *= self._scales[cuts.text]
        else:
            signed = np.add.reduceat(self._signs * segments.astype(np.int64), cuts.first[:-1], axis=1)
            values = ((signed - self._signed_bytes * slopes) * self._scales).T.ravel()  # text by text
        return (RESOLUTION * values).astype(np.float32)

    @cached_property
    def _num_bytes(self) -> NDArray[np.int64]:
        """(n_texts,)"""
        return self.cuts.sums(self.cuts.sizes)

    @cached_property
    def _scales(self) -> NDArray[np.float64]:
        """What makes up for the drift's share of the differences, of shape (n_texts,), or (n_probes, n_texts) of signed sums.

        Taking the drift out takes out of independent differences, whose variances are as their bytes, the share
        ``sum(b**2) / B**2`` (of a signed sum ``sum(r * b)**2 / B**2``); 0 where nothing is left, in a text of one segment.
        """
        import numpy as np

        cuts = self.cuts
        squares = cuts.sums(cuts.sizes.astype(np.int64) ** 2) if self._is_exact else self._signed_bytes**2
        left = 1.0 - squares / np.maximum(self._num_bytes.astype(np.float64), 1.0) ** 2
        scales = np.where(left > 0, 1.0 / np.sqrt(np.where(left > 0, left, 1.0)), 0.0)
        return scales if self._is_exact else scales / np.sqrt(_num_probes(cuts.num_texts))

    @cached_property
    def _signed_bytes(self) -> NDArray[np.int64]:
        """Sums of the segments' bytes with their signs, (n_probes, n_texts): small, for signs are balanced."""
        import numpy as np

        return np.add.reduceat(self._signs * self.cuts.sizes.astype(np.int64), self.cuts.first[:-1], axis=1)

    @cached_property
    def _signs(self) -> NDArray[np.int8]:
        """Signs of the segments in each sum, +1 or -1, (n_probes, n_segments).

        Of each text the segments are put in order of their bytes, at random among equal ones, longest first; the first and the
        second get opposite signs, the third and the fourth, and so on. So the drift nearly cancels before it is taken out.
        """
        import numpy as np

        cuts = self.cuts
        probes, counts = _num_probes(cuts.num_texts), np.diff(cuts.first)
        places = np.arange(cuts.num_segments) - np.repeat(cuts.first[:-1], counts)  # of a segment in its text's order
        signs = np.empty((probes, cuts.num_segments), np.int8)
        for probe in range(probes):
            # 8 random bytes a segment, of a text's own.
            data = b"".join(
                hashlib.shake_256(f"{self._id}:{text}:{probe}".encode()).digest(8 * count)
                for text, count in enumerate(counts.tolist())
            )
            random = np.frombuffer(data, "<u8")  # (n_segments,)
            order = np.lexsort((random, -cuts.sizes.astype(np.int64), cuts.text))
            ordered = random[order]
            first = np.where(places % 2 == 0, ordered, np.roll(ordered, 1)) & 1  # the lowest bit of a pair's first
            signs[probe, order] = np.where(places % 2 == 0, 1, -1) * np.where(first == 1, 1, -1)
        return signs


def stored_row(row: Row, fine: FineMap | None) -> Row:
    """A row as a store has it: with fine coordinates in the place of its segments."""
    changes: dict[str, Any] = {}
    for segments, coordinates in zip(SEGMENT_VARIABLES, FINE_VARIABLES, strict=True):
        values = row.arrays.get(segments)
        if fine is not None and values is not None:
            changes |= {segments: None, coordinates: fine.coordinates(values)}
    return replace(row, **changes)


def store_arrays(row: Row, form: StoreForm, fine: FineMap | None) -> dict[str, NDArray[Any]]:
    """A row's values as the store of its registry has them.

    Parameters
    ----------
    row : Row
        From its file, or from a store.
    form : StoreForm
    fine : FineMap or None
        None in a registry of format 1.

    Returns
    -------
    dict of str to array of shape (n_texts,) or (n_coordinates,)
        Of a row without segments the counts of correct tokens are `UNKNOWN` and the coordinates NaN.
    """
    import numpy as np

    arrays, given = {}, stored_row(row, fine).arrays
    for name in form.variables:
        if name in given:
            arrays[name] = given[name]
        else:
            empty = UNKNOWN if is_count(name) else np.nan
            arrays[name] = np.full(form.width(name), empty, dtype_of(name))
    return arrays
