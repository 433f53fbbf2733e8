"""In which parts of their texts two models differ: segment by segment, whatever their tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.geometry.kl.contrast import by_subset, text_weights
from llreg.geometry.kl.distance import kl_judged
from llreg.geometry.kl.pairs import records_of
from llreg.geometry.kl.rows import Rows, view_rows
from llreg.geometry.view.view import View, view_of
from llreg.store.arrays import UNSCORED
from llreg_schemas import Pair, RowRecord
from llreg_schemas.errors import InputError, NotFoundError
from llreg_schemas.records import RESOLUTION

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents

COUNT = 20  # spans that are named unless told otherwise


@dataclass(frozen=True)
class Spans:
    """Two rows on the texts that both have, segment by segment.

    Attributes
    ----------
    rows : Rows
        The two, with the texts used; their fine coordinates are the segments themselves.
    text : intp array of shape (n_segments,), ascending
        Position of each segment's text in ``rows.texts``.
    start, size : int32 arrays of shape (n_segments,), bytes
        Where a segment begins in its text (of a pair in the response), and how long it is.
    log_likelihood : float64 array of shape (2, n_segments), nats
        Of the segments, by model.
    deviation : float64 array of shape (n_segments,), nats
        Log-likelihood of the first model less that of the second, less the drift of the text: as much of their difference in
        the whole text as the segment has of its bytes (see `llreg.texts.segments.Cuts.drift_bytes`).
    share : float64 array of shape (n_segments,)
        What the segments carry of the KL; sums to 1 (to 0 between rows that are equal everywhere).
    passages : sequence of (str or None)
        The texts, or the responses of pairs; None where a text is not on this machine.
    kl, kl_se : float
        Bits per byte, from the segments themselves.
    mark : str
        Why the value is no KL, or ""; see `llreg.geometry.kl.distance.marks`.
    bits_per_byte : list of float
        What the texts take each model.
    subsets : list of dict
        The variables of `llreg.geometry.kl.contrast.by_subset`, and ``bits_per_byte``, a dict for each subset.
    spans : list of dict
        The widest spans, largest share first: ``text``, its index in the text set; ``subset``; ``start`` and ``end``, bytes;
        ``log_likelihood`` of both models, ``difference``, the first less the second, and ``deviation``, the same less drift,
        nats; ``share`` of the KL; ``passage``, what stands there, None where the text is not on this machine.
    """

    rows: Rows
    text: NDArray[np.intp]
    start: NDArray[np.int32]
    size: NDArray[np.int32]
    log_likelihood: NDArray[np.float64]
    deviation: NDArray[np.float64]
    share: NDArray[np.float64]
    passages: Sequence[str | None]
    kl: float
    kl_se: float
    mark: str
    bits_per_byte: list[float]
    subsets: list[dict[str, Any]]
    spans: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Plain values: models (row ids), version, id of the view, the KL, subsets and spans."""
        return {
            "models": self.rows.row_ids,
            "version": self.rows.version,
            "view": self.rows.view.id,
            "estimator": "fine",
            "kl_bits_per_byte": self.kl,
            "kl_bits_per_byte_se": self.kl_se,
            "mark": self.mark,
            "num_texts": len(self.rows.texts),
            "bits_per_byte": self.bits_per_byte,
            "subsets": self.subsets,
            "spans": self.spans,
        }


def find_spans(registry: Contents, models: Sequence[str], *, view: View | None = None, count: int = COUNT) -> Spans:
    """Two rows segment by segment, and the spans in which they differ most.

    Parameters
    ----------
    registry : Contents
    models : sequence of str
        Two rows, as in `Contents.find`; their tokenizers may differ.
    view : View, optional
        The registry's own by default. Its texts and weights count; segments are not clipped.
    count : int
        How many spans to name.

    Raises
    ------
    NotFoundError
        If a name means no row, or the file of a row is not here.
    InputError
        If these are not two rows with segments, or they share fewer than two texts.

    Notes
    -----
    The KL is half the mean over texts of the sum over segments of the squared deviation (times a factor for the drift, which is
    estimated from the same segments), so a segment's part of it is known. A span is a segment, or neighbouring ones
    in which the same model is the better and none differs twice as much as the next.
    """
    if len(models) != 2:
        raise InputError(f"spans are of two models; got {len(models)}")
    records, version = registry.select(models)
    cuts = registry.cuts
    if cuts is None:
        raise InputError(
            f"{registry.name} is of format 1, whose rows keep one number a text; for spans make a new registry on the same "
            "texts and add the models to it: llreg init"
        )
    view = replace(view_of(registry, view), estimator="fine")
    # Whole texts as they are: what the KL is made of comes from the segments, here.
    rows = view_rows(registry, records, replace(view, estimator="text", clip=None), version)
    every = np.array([_segments(registry, record, view) for record in records])  # (2, segments of the text set)

    # The segments of the view's texts.
    chosen = np.flatnonzero(np.isin(cuts.text, rows.texts))
    text, size, values = np.searchsorted(rows.texts, cuts.text[chosen]), cuts.sizes[chosen], every[:, chosen]
    before = np.cumsum(cuts.sizes, dtype=np.int64) - cuts.sizes  # bytes of the set before each segment
    start = (before - before[cuts.first[cuts.text]])[chosen].astype(np.int32)

    # What of them the KL is made of.
    drift = (
        np.array([np.bincount(text, row) for row in values]) / cuts.drift_bytes[rows.texts]
    )  # (2, n_texts), nats a byte
    residual = values - size * drift[:, text]
    scale = cuts.drift_scales[rows.texts]  # (n_texts,)
    coordinates = (residual * scale[text]).astype(np.float32)
    rows = replace(rows, view=view, fine=coordinates, fine_text=text)
    first, second = rows.take([0]), rows.take([1])
    kl = kl_judged(first, second, tail_share=False)
    subsets = by_subset(rows)

    # Now only the texts that both have.
    used = ~np.isnan(rows.values).any(axis=0) & (text_weights(rows) > 0)
    keep = np.flatnonzero(used[text])
    rows, text = rows.take_texts(np.flatnonzero(used)), (np.cumsum(used) - 1)[text[keep]]
    deviation = (residual[0] - residual[1])[keep]
    squares = (text_weights(rows) * scale[used] ** 2)[text] * deviation**2
    share = squares / squares.sum() if squares.any() else squares
    result = Spans(
        rows=rows,
        text=text,
        start=start[keep],
        size=size[keep],
        log_likelihood=values[:, keep],
        deviation=deviation,
        share=share,
        passages=[_passage(registry, int(index)) for index in rows.texts],
        kl=kl["kl_bits_per_byte"].item(),
        kl_se=kl["kl_bits_per_byte_se"].item(),
        mark=kl["mark"].item(),
        bits_per_byte=_bits_per_byte(rows, slice(None)),
        subsets=[
            {**subset, "bits_per_byte": _bits_per_byte(rows, rows.subsets == subset["subset"])}
            for subset in records_of(subsets, ["subset", *map(str, subsets.data_vars)])
            if subset["num_texts"]
        ],
        spans=[],
    )
    return replace(result, spans=_widest(result, count))


def _segments(registry: Contents, record: RowRecord, view: View) -> NDArray[np.float64]:
    """Log-likelihoods of a row's segments as the view has its vectors, float64 array of shape (n_segments,), nats."""
    if not record.is_fine:
        reason = record.provenance.get("no_segments", "it is of format 1")
        raise InputError(
            f"{record.row_id} has no segments: {reason}; where that can be helped, score it again with: "
            f"llreg add --overwrite always {record.identity.name}"
        )
    parts = []
    for variable in view.variables:
        units = registry.segments(record, variable=f"segment_{variable}")
        if units is None:
            raise NotFoundError(
                f"the segments of {record.row_id} are not here: they are in its row file, which a pull leaves on the Hub; "
                "name the registry there: llreg dist -r ORG/NAME"
            )
        parts.append(np.where(units == UNSCORED, np.nan, RESOLUTION * units))
    return parts[0] if len(parts) == 1 else parts[0] - parts[1]


def _bits_per_byte(rows: Rows, texts: slice | NDArray[np.bool_]) -> list[float]:
    """What some of the texts take each model, bits per byte."""
    weights = text_weights(rows)[texts]
    num_bytes = (weights * rows.num_bytes[texts]).sum()
    return [float(-(weights * row[texts]).sum() / num_bytes / np.log(2)) for row in rows.raw]


def _passage(registry: Contents, index: int) -> str | None:
    """A text, or the response of a pair; None where it is not on this machine."""
    text = registry.texts.texts[index]
    return text.response if isinstance(text, Pair) else text


def _widest(spans: Spans, count: int) -> list[dict[str, Any]]:
    """The spans of largest share, as ``Spans.spans`` has them."""
    # Neighbours in one span: of one text, of one sign, and the smaller at least half of the larger.
    size, sign = np.abs(spans.deviation), np.sign(spans.deviation)
    alike = (sign[1:] == sign[:-1]) & (2 * np.minimum(size[1:], size[:-1]) >= np.maximum(size[1:], size[:-1]))
    joined = (spans.text[1:] == spans.text[:-1]) & alike
    first = np.flatnonzero(np.concatenate([[True], ~joined]))  # segment at which each span begins
    last = np.append(first[1:], len(spans.text)) - 1
    share = np.add.reduceat(spans.share, first)
    found = []
    for span in np.argsort(-share, kind="stable")[:count]:
        if share[span] == 0:
            break  # the rows are equal in all that is left
        segments = slice(first[span], last[span] + 1)
        text, start = int(spans.text[first[span]]), int(spans.start[first[span]])
        end = int(spans.start[last[span]] + spans.size[last[span]])
        log_likelihood = spans.log_likelihood[:, segments].sum(axis=1)
        passage = spans.passages[text]
        found.append(
            {
                "text": int(spans.rows.texts[text]),
                "subset": spans.rows.subsets[text],
                "start": start,
                "end": end,
                "log_likelihood": log_likelihood.tolist(),
                "difference": float(log_likelihood[0] - log_likelihood[1]),
                "deviation": float(spans.deviation[segments].sum()),
                "share": float(share[span]),
                "passage": None if passage is None else passage.encode("utf-8")[start:end].decode("utf-8"),
            }
        )
    return found
