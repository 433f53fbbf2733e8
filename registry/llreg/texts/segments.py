"""Segments: the consecutive byte ranges into which each text is cut, by one rule for every tokenizer.

A row says how well a model predicts each of them. No tokenizer owns the cuts, so that rows of different tokenizers
compare; most tokenizers put a space with the word behind it, so that few tokens straddle a cut before one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llreg_schemas import Pair, hash_json
from llreg_schemas.records import RESOLUTION, SEGMENTS_RULES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LEAST_LEFT = 0.25  # of the differences of a text, without its drift
_CUT = re.compile(
    rb"(?<=[^ \t\n\r\f\v])[ \t\n\r\f\v]"
)  # ASCII's whitespace: a wider set would depend on Unicode's version


def cut(text: str, target: int = SEGMENTS_RULES["target_bytes"], most: int = SEGMENTS_RULES["max_bytes"]) -> list[int]:
    """Bytes of each segment of a text, by the rule ``whitespace-1``; a text has at least one, an empty one one of 0 bytes.

    A segment ends before the first whitespace (ASCII) that follows a non-space once it has `target` bytes; where that would
    make it longer than `most` bytes, it ends with the last character that fits.

    Examples
    --------
    >>> cut("The lighthouse keeper counted ships.")
    [29, 7]
    >>> cut("数" * 20)
    [48, 12]
    """
    data = text.encode("utf-8")
    sizes, start = [], 0
    while len(data) - start > target:
        found = _CUT.search(data, start + target, start + most + 1)
        if found:
            end = found.start()
        elif len(data) - start <= most:
            break
        else:
            end = start + most
            while data[end] & 0xC0 == 0x80:  # inside a character
                end -= 1
        sizes.append(end - start)
        start = end
    return [*sizes, len(data) - start]


@dataclass(frozen=True, eq=False)
class Cuts:
    """The segments of a text set, those of all texts one after the other.

    Attributes
    ----------
    sizes : int32 array of shape (n_segments,), bytes
    first : int64 array of shape (n_texts + 1,)
        Position in `sizes` of each text's first segment; the last entry is the number of segments.
    """

    sizes: NDArray[np.int32]
    first: NDArray[np.int64]

    def __eq__(self, other: object) -> bool:
        import numpy as np

        if not isinstance(other, Cuts):
            return NotImplemented
        return np.array_equal(self.sizes, other.sizes) and np.array_equal(self.first, other.first)

    __hash__ = None  # type: ignore[assignment]  # as of any class with __eq__ alone

    @classmethod
    def from_lists(cls, sizes: Iterable[Sequence[int]]) -> Cuts:
        """From the bytes of each text's segments."""
        import numpy as np

        lists = list(sizes)
        first = np.concatenate([[0], np.cumsum([len(each) for each in lists], dtype=np.int64)]).astype(np.int64)
        return cls(np.array([size for each in lists for size in each], dtype=np.int32), first)

    @classmethod
    def of(cls, texts: Iterable[str | Pair], rules: Mapping[str, Any] = SEGMENTS_RULES) -> Cuts:
        """The cuts of some texts, or of the responses of pairs, by the rules in registry.json (of a new one by default)."""
        target, most = rules["target_bytes"], rules["max_bytes"]
        plain = (text.response if isinstance(text, Pair) else text for text in texts)
        return cls.from_lists(cut(text, target, most) for text in plain)

    @property
    def num_texts(self) -> int:
        """Texts."""
        return len(self.first) - 1

    @property
    def num_segments(self) -> int:
        """Segments of all texts."""
        return len(self.sizes)

    @cached_property
    def text(self) -> NDArray[np.int32]:
        """The text of each segment, int32 array of shape (n_segments,)."""
        import numpy as np

        return np.repeat(np.arange(self.num_texts, dtype=np.int32), np.diff(self.first))

    def starts(self, text: int) -> NDArray[np.int32]:
        """Byte at which each segment of a text begins in it, int32 array of shape (n_segments of the text,)."""
        import numpy as np

        sizes = self.sizes[self.first[text] : self.first[text + 1]]
        return (np.cumsum(sizes, dtype=np.int32) - sizes).astype(np.int32)

    def sums(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sums of integers over the segments of each text: int64 array of shape (n_texts,)."""
        import numpy as np

        return np.add.reduceat(values, self.first[:-1], dtype=np.int64)

    @cached_property
    def drift_bytes(self) -> NDArray[np.float64]:
        """What a text's difference is divided by for its drift, float64 array of shape (n_texts,), bytes.

        Those of the text; inf, and the drift is 0, where taking it out would leave less than a quarter of the differences: in a
        text of one segment, or of hardly more.
        """
        import numpy as np

        num_bytes = self.sums(self.sizes).astype(np.float64)
        return np.where((num_bytes > 0) & (self._left >= _LEAST_LEFT), num_bytes, np.inf)

    @cached_property
    def drift_scales(self) -> NDArray[np.float64]:
        """What a text's segments less their drift are multiplied by, for it took its part of their squares.

        float64 array of shape (n_texts,): the root of 1 / (1 - sum b**2 / (sum b)**2) of the bytes b of the segments, for
        independent differences whose variances are as their bytes; 1 where no drift is taken out.
        """
        import numpy as np

        return np.asarray(1.0 / np.sqrt(np.where(np.isfinite(self.drift_bytes), self._left, 1.0)))

    @cached_property
    def _left(self) -> NDArray[np.float64]:
        """What taking the drift out leaves of such differences, of shape (n_texts,)."""
        import numpy as np

        num_bytes = self.sums(self.sizes).astype(np.float64)
        return np.asarray(1.0 - self.sums(self.sizes.astype(np.int64) ** 2) / np.maximum(num_bytes, 1.0) ** 2)

    @cached_property
    def sha256(self) -> str:
        """Hash of the sizes, 64 hex digits."""
        return hashlib.sha256(self.sizes.astype("<i4").tobytes()).hexdigest()

    def document(self, text_set: str) -> dict[str, Any]:
        """What a new registry.json says of the cuts of the text set with this id."""
        document = {**SEGMENTS_RULES, "text_set": text_set, "num_segments": self.num_segments, "sha256": self.sha256}
        return {**document, "id": hash_json(document)}


def in_units(values: NDArray[np.float64]) -> NDArray[np.int32]:
    """Log-likelihoods of a text's segments as a row keeps them, so that their sum is the text's to the resolution.

    Rounded are the sums up to each segment's end and not the segments, whose errors would add up.

    Parameters
    ----------
    values : float64 array of shape (n_segments of the text,), nats

    Returns
    -------
    int32 array of the same shape, in units of 1/256 nat
    """
    import numpy as np

    boundaries = np.rint(np.cumsum(values) / RESOLUTION)  # (n_segments,)
    return np.diff(boundaries, prepend=0.0).astype(np.int32)
