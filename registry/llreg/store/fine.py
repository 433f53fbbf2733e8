"""Fine coordinates: numbers in which rows differ as their segments do, less what a whole text's difference explains.

Half the mean over texts of the squared distances of two rows' coordinates of a text estimates the KL divergence that
next-token distributions have, summed over the text. What is left out is the drift, a text's difference spread evenly over
its bytes: one model is better at a language or a topic, which is no divergence. Small text sets keep a coordinate a
segment; of larger ones it is a few sums of segments with signs, whose squares have the same mean (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
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
    return num_segments if num_segments <= COORDINATES else num_texts * num_probes(num_texts)


def num_probes(num_texts: int) -> int:
    """Coordinates of a text, in a text set that has too many segments for a coordinate each."""
    return max(1, COORDINATES // num_texts)


def store_form(info: RegistryInfo) -> StoreForm:
    """What registry.json implies of the store."""
    num_texts, num_segments = info.text_set.num_texts, info.num_segments
    return StoreForm(num_texts, num_coordinates(num_texts, num_segments), info.has_pairs)


def coordinate_text(info: RegistryInfo, cuts: Callable[[], Cuts | None]) -> NDArray[np.int32] | None:
    """The text of each fine coordinate, int32 array of shape (n_coordinates,), ascending; None in a registry of format 1.

    Parameters
    ----------
    info : RegistryInfo
    cuts : callable
        Gives the registry's cuts; called only where there is a coordinate a segment, and so few of them.
    """
    import numpy as np

    form = store_form(info)
    if info.num_segments > COORDINATES:
        return np.repeat(np.arange(form.num_texts, dtype=np.int32), form.num_coordinates // form.num_texts)
    found = cuts()
    return None if found is None else found.text


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

    Notes
    -----
    The segments of a text, less their part in its drift, are dealt to its coordinates and added up there with random signs: a
    count sketch (Charikar, Chen and Farach-Colton 2002). The expected sum of squares is that of the segments. Where
    each has a coordinate of its own, nothing is added up, and it is that sum.
    """

    def __init__(self, document: Mapping[str, Any], cuts: Cuts) -> None:
        import numpy as np

        self.cuts = cuts
        counts = np.diff(cuts.first)  # segments of each text
        is_exact = cuts.num_segments <= COORDINATES
        widths = counts if is_exact else np.full(cuts.num_texts, num_probes(cuts.num_texts))  # coordinates of each text
        self.text: NDArray[np.int32] = np.repeat(np.arange(cuts.num_texts, dtype=np.int32), widths)
        places = np.arange(cuts.num_segments) - np.repeat(cuts.first[:-1], counts)  # of a segment in its text
        signs = np.ones(cuts.num_segments)
        if not is_exact:
            # 8 random bytes a segment, of a text's own: its place among the others, and in the lowest bit its sign.
            data = b"".join(
                hashlib.shake_256(f"{document['id']}:{text}".encode()).digest(8 * count)
                for text, count in enumerate(counts.tolist())
            )
            random = np.frombuffer(data, "<u8")
            order = np.lexsort((random, cuts.text))
            places[order] = places.copy()
            signs = np.where(random & 1, 1.0, -1.0)
        self._coordinate = np.repeat(np.cumsum(widths) - widths, counts) + places % np.repeat(widths, counts)
        self._signs = signs
        self._signed_bytes = self._sums(cuts.sizes)

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

        scored = segments[self.cuts.first[:-1]] != UNSCORED  # (n_texts,)
        drift = np.where(scored, self.cuts.sums(segments), np.nan) / self.cuts.drift_bytes  # (n_texts,), units a byte
        values = (self._sums(segments) - self._signed_bytes * drift[self.text]) * self.cuts.drift_scales[self.text]
        return (RESOLUTION * np.where(scored[self.text], values, np.nan)).astype(np.float32)

    def _sums(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Signed sums over the segments of each coordinate, (n_coordinates,): of integers, so they are exact."""
        import numpy as np

        return np.bincount(self._coordinate, self._signs * values, minlength=len(self.text)).astype(np.float64)


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
