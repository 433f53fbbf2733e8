"""Nearest rows of a row, or of a vector that is in no registry."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.geometry.kl.distance import kl_matrix
from llreg.geometry.kl.noise import Verdict, verdict
from llreg.geometry.kl.rows import seen_designs
from llreg.geometry.kl.vectors import read_parts, seen_values, vector_noise
from llreg.geometry.view.view import View, view_of
from llreg.printable import short_names
from llreg.store.columns import ROW_COLUMNS
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from xarray import Dataset

    from llreg.store.contents import Contents
    from llreg.texts.design import Design
    from llreg_schemas import RowRecord

_BLOCK = 128  # rows at a time: 10 MB of float64 for 10,000 texts, which nearly stays in the cache


@dataclass(frozen=True)
class Neighbor:
    """One of the nearest rows.

    Attributes
    ----------
    row_id, model : str
    rank : int
        1 for the nearest.
    kl, kl_se : float
        KL divergence and its standard error, bits per byte.
    tail_share : float
        Share of the variance that the top 1 % of texts carry.
    num_texts : int
        Texts used.
    relation : str
        What the records say of the two: "declared base", "declares it as its base", "same declared base",
        "same model", or "".
    verdict : {"identical", "same within noise", "different", "unknown"}
    """

    row_id: str
    model: str
    rank: int
    kl: float
    kl_se: float
    tail_share: float
    num_texts: int
    relation: str
    verdict: Verdict


@dataclass(frozen=True)
class Neighbors:
    """The nearest rows, and where the declared base stands among them.

    Attributes
    ----------
    query : str
        Row id, or what was given.
    nearest : sequence of Neighbor
    bases : sequence of Neighbor
        Rows of the declared base models, wherever they rank.
    missing_bases : sequence of str
        Declared base models that have no row here.
    version : str
    view : View
    """

    query: str
    nearest: Sequence[Neighbor]
    bases: Sequence[Neighbor]
    missing_bases: Sequence[str]
    version: str
    view: View

    @property
    def labels(self) -> list[str]:
        """What the nearest rows are called: model names where they are unique among them, else row ids."""
        return neighbor_labels(self.nearest)

    @property
    def distant_bases(self) -> list[Neighbor]:
        """Rows of the declared base models that are not among the nearest."""
        nearest = {neighbor.row_id for neighbor in self.nearest}
        return [base for base in self.bases if base.row_id not in nearest]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values, with the view's document."""
        return {**asdict(self), "view": self.view.to_json()}


def neighbor_labels(nearest: Sequence[Neighbor]) -> list[str]:
    """Model names where they are unique among these, else row ids."""
    return short_names([neighbor.model for neighbor in nearest], [neighbor.row_id for neighbor in nearest])


def neighbors(
    registry: Contents,
    query: str | Path | NDArray[np.floating],
    k: int = 10,
    *,
    view: View | None = None,
    where: Sequence[str] = (),
) -> Neighbors:
    """The rows nearest to one row.

    Parameters
    ----------
    registry : Contents
    query : str, Path or float array of shape (n_texts,)
        A row, as in `Contents.find`; a ``.npy`` file or an array of raw log-likelihoods, nats, on the registry's texts,
        NaN where not scored. Of pairs it may have shape (2, n_texts): the responses given their prompts, and alone.
    k : int
        How many.
    view : View, optional
        The registry's own by default.
    where : sequence of str
        Conditions on metadata, all of which must hold, as "architecture=LlamaForCausalLM" or "num_parameters<2e9".

    Raises
    ------
    NotFoundError, InputError
        If the query is no row, or no vector of this text set; if a condition cannot be read.
    """
    if k < 1:
        raise InputError(f"k: expected at least 1 neighbour; got {k}")
    seen = view_of(registry, view)
    records, version = registry.select(None)
    record, values = _query(registry, query, seen)
    design = registry.designs([record]) if record else None
    candidates = _filtered([other for other in records if record is None or other.digest != record.digest], where)
    if not candidates:
        condition = " that meets the conditions" if where else ""
        raise InputError(f"a neighbour needs another row{condition}; there is none in {registry.name}")
    kl = _distances(registry, values, candidates, seen, design)
    order = np.argsort(kl, kind="stable")  # NaN, no common texts, goes last
    declared = set(record.base_models) if record else set()
    ranks = {int(position): rank for rank, position in enumerate(order, 1)}
    based = [position for position in ranks if candidates[position].identity.name in declared]
    found = _described(registry, record, values, candidates, [*map(int, order[:k]), *based], ranks, seen)
    return Neighbors(
        query=record.row_id if record else str(query) if isinstance(query, (str, Path)) else "the given vector",
        nearest=found[: min(k, len(candidates))],
        bases=found[min(k, len(candidates)) :],
        missing_bases=sorted(declared - {other.identity.name for other in records}),
        version=version,
        view=seen,
    )


def _query(
    registry: Contents, query: str | Path | NDArray[np.floating], view: View
) -> tuple[RowRecord | None, NDArray[np.float64]]:
    """The row that is asked for, if it is one, and its values as the view shows them, shape (1, n_kept)."""
    texts = view.texts(registry.text_index)
    if isinstance(query, (str, Path)) and not str(query).endswith(".npy"):
        record = registry.find(str(query))
        return record, seen_values(read_parts(registry, [record], view), view, texts)
    given = read_vector(query, registry.num_texts, pairs=registry.rendering is not None)
    if len(given) < len(view.variables):
        raise InputError(
            f"a PMI vector is of two log-likelihoods: expected shape (2, {registry.num_texts}), responses given their "
            f"prompts and alone; got ({registry.num_texts},)"
        )
    # Of one vector it is not known which it is: it is taken for what the view looks at.
    chosen = given if view.vector == "pmi" else given[-1:] if view.vector == "response" else given[:1]
    return None, seen_values([part[None] for part in chosen], view, texts)


def read_vector(
    source: str | Path | NDArray[np.floating], num_texts: int, *, pairs: bool = False
) -> NDArray[np.float64]:
    """Raw log-likelihoods from an array or a ``.npy`` file, float64 of shape (1, n_texts), nats; of pairs also (2, n_texts).

    Raises
    ------
    InputError
        If it cannot be read, has another shape, or holds values that no log-likelihood has.
    """
    shown = str(source) if isinstance(source, (str, Path)) else "the vector"
    try:
        values = np.load(source, allow_pickle=False) if isinstance(source, (str, Path)) else np.asarray(source)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{shown}: expected a .npy file with one array of numbers; it cannot be read as one"
        ) from error
    if not isinstance(values, np.ndarray):
        raise InputError(f"{shown}: expected a .npy file with one array of numbers; this one is an archive of several")
    shapes = [(num_texts,), (2, num_texts)] if pairs else [(num_texts,)]
    if values.shape not in shapes or values.dtype.kind not in "fi":
        raise InputError(
            f"{shown}: expected {num_texts:,} numbers, one log-likelihood a text in nats; got {values.dtype} of shape "
            f"{values.shape}"
        )
    values = values.astype(np.float64)
    if np.isinf(values).any() or (values > 0).any():
        raise InputError(f"{shown}: a log-likelihood is a finite number of at most 0, or NaN where not scored")
    return np.atleast_2d(values)


def _distances(
    registry: Contents,
    values: NDArray[np.float64],
    candidates: Sequence[RowRecord],
    view: View,
    design: list[Design | None] | None,
) -> NDArray[np.float64]:
    """KL from a row to many, shape (n_candidates,), nats per text; they pass through memory a block at a time."""
    parts = [
        _kl(registry, values, candidates[start : start + _BLOCK], view, design, se=False)["kl"].values[0]
        for start in range(0, len(candidates), _BLOCK)
    ]
    return np.concatenate(parts)


def _kl(
    registry: Contents,
    values: NDArray[np.float64],
    records: Sequence[RowRecord],
    view: View,
    design: list[Design | None] | None,
    *,
    se: bool,
) -> Dataset:
    index = registry.text_index
    texts = view.texts(index)
    return kl_matrix(
        values,
        index.bytes_per_text[texts],
        clip=None,  # the view has clipped
        others=seen_values(read_parts(registry, records, view), view, texts),
        weights=view.text_weights(index),
        designs=None if design is None else seen_designs(design, texts),
        other_designs=seen_designs(registry.designs(records), texts),
        se=se,
        tail_share=se,
    )


def _described(
    registry: Contents,
    record: RowRecord | None,
    values: NDArray[np.float64],
    candidates: Sequence[RowRecord],
    positions: Sequence[int],
    ranks: dict[int, int],
    view: View,
) -> list[Neighbor]:
    """The candidates at some positions, with standard errors and what their records say."""
    chosen = [candidates[k] for k in positions]
    result = _kl(registry, values, chosen, view, registry.designs([record]) if record else None, se=True)
    numbers = {name: result[name].values[0] for name in result}
    noise = _noise(registry, chosen, view)
    # A vector says nothing of its dtype: it is taken to be as exact as the row it is compared with.
    floors = (noise + (_noise(registry, [record], view) if record else noise)) / 2
    return [
        Neighbor(
            row_id=other.row_id,
            model=other.identity.name,
            rank=ranks[position],
            kl=float(numbers["kl_bits_per_byte"][i]),
            kl_se=float(numbers["kl_bits_per_byte_se"][i]),
            tail_share=float(numbers["tail_share"][i]),
            num_texts=int(numbers["num_texts"][i]),
            relation=relation(record, other) if record else "",
            verdict=verdict(float(numbers["kl"][i]), float(floors[i]), int(numbers["num_texts"][i])),
        )
        for i, (position, other) in enumerate(zip(positions, chosen, strict=True))
    ]


def _noise(registry: Contents, records: Sequence[RowRecord], view: View) -> NDArray[np.float64]:
    return vector_noise(records, read_parts(registry, records, view), view)


def relation(record: RowRecord, other: RowRecord) -> str:
    """What two records declare of each other."""
    model, there = record.identity.name, other.identity.name
    bases, their_bases = (set(entry.base_models) for entry in (record, other))
    if model == there:
        return "same model"
    if there in bases:
        return "declared base"
    if model in their_bases:
        return "declares it as its base"
    return "same declared base" if bases & their_bases else ""


_CONDITION = re.compile(r"\s*([a-z_]+)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*", re.DOTALL)
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


def _filtered(records: Sequence[RowRecord], where: Sequence[str]) -> list[RowRecord]:
    """Records that meet all conditions."""
    columns = {column.name: column.stored(records) for column in ROW_COLUMNS}
    keep = [True] * len(records)
    for condition in where:
        match = _CONDITION.fullmatch(condition)
        if not match or match[1] not in columns:
            raise InputError(
                f"{condition!r}: expected FIELD=VALUE (or != < <= > >=) with FIELD one of {', '.join(columns)}"
            )
        holds = _test(match[2], match[3], condition, numeric=match[1] == "num_parameters")
        keep = [kept and holds(value) for kept, value in zip(keep, columns[match[1]], strict=True)]
    return [record for record, kept in zip(records, keep, strict=True) if kept]


def _test(sign: str, given: str, condition: str, *, numeric: bool) -> Callable[[Any], bool]:
    compare = _OPERATORS[sign]
    if not numeric:
        return lambda value: compare(value, given)
    try:
        number = float(given)
    except ValueError:
        raise InputError(f"{condition!r}: expected a number after {sign}; got {given!r}") from None
    return lambda value: value >= 0 and compare(value, number)  # -1: unknown
