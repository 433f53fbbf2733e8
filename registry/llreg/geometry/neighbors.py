"""Nearest rows of a row, or of a vector that is in no registry."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.geometry.kl.distance import kl_judged, kl_plain
from llreg.geometry.kl.noise import Verdict
from llreg.geometry.kl.rows import Rows, fine_values, view_rows, view_values
from llreg.geometry.kl.stream import RowStream
from llreg.geometry.view.view import Estimator, View, view_of
from llreg.store.columns import ROW_COLUMNS
from llreg.store.fine import stored_row
from llreg.store.rowfile import Row
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents
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
    estimator : {"fine", "text"}
        Whether the KL is from segments of the texts, or from whole ones.
    relation : str
        What the records say of the two: "declared base", "declares it as its base", "same declared base",
        "same model", or "".
    verdict : {"identical", "same within noise", "different", "unknown"}
    mark : str
        Why the value is no KL, or ""; see `llreg.geometry.kl.distance.marks`.
    """

    row_id: str
    model: str
    rank: int
    kl: float
    kl_se: float
    tail_share: float
    num_texts: int
    estimator: Estimator
    relation: str
    verdict: Verdict
    mark: str


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

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values, with the view's document."""
        return {**asdict(self), "view": self.view.to_json()}


def neighbors(
    registry: Contents,
    query: str | Path | Row | NDArray[np.floating],
    k: int = 10,
    *,
    view: View | None = None,
    where: Sequence[str] = (),
) -> Neighbors:
    """The rows nearest to one row.

    Behind `Registry.neighbors`, which describes parameters, result and errors.
    """
    if k < 1:
        raise InputError(f"k: expected at least 1 neighbour; got {k}")
    view = view_of(registry, view)
    records, version = registry.select(None)
    row = _read_query(registry, query, view, version)
    record = row.records[0] if row.records else None
    others = [candidate for candidate in records if record is None or candidate.digest != record.digest]
    candidates = _filter_records(others, where)
    if not candidates:
        condition = " that meets the conditions" if where else ""
        raise InputError(f"a neighbour needs another row{condition}; there is none in {registry.name}")
    # All distances, a block of rows at a time so that memory stays small: float64 array of shape (n_candidates,).
    blocks = RowStream(registry, candidates, view, version).blocks(_BLOCK)
    kl = np.concatenate([kl_plain(row, block, se=False, tail_share=False)["kl"].values[0] for _, block in blocks])
    order = np.argsort(kl, kind="stable")  # NaN, no common texts, goes last
    ranks = {int(position): rank for rank, position in enumerate(order, 1)}
    declared = set(record.base_models) if record else set()
    bases = [position for position in ranks if candidates[position].identity.name in declared]
    # The nearest and the bases once more, with standard errors.
    k = min(k, len(candidates))
    positions = [*map(int, order[:k]), *bases]
    rows = view_rows(registry, [candidates[position] for position in positions], view, version)
    described = _describe(row, rows, [ranks[position] for position in positions])
    shown = query.record.identity.name if isinstance(query, Row) else query
    return Neighbors(
        query=record.row_id if record else str(shown) if isinstance(shown, (str, Path)) else "the given vector",
        nearest=described[:k],
        bases=described[k:],
        missing_bases=sorted(declared - {candidate.identity.name for candidate in records}),
        version=version,
        view=view,
    )


def _read_query(registry: Contents, query: str | Path | Row | NDArray[np.floating], view: View, version: str) -> Rows:
    """What neighbours are looked for, through the view: one row, without a record if it is not the registry's."""
    if isinstance(query, (str, Path)) and not str(query).endswith(".npy"):
        return view_rows(registry, [registry.find(str(query))], view, version)
    arrays: dict[str, NDArray[Any]] = {}
    if isinstance(query, Row):
        arrays = stored_row(query, registry.fine_map).arrays
        values = [arrays[name] for name in ("log_likelihood", "log_likelihood_response") if name in arrays]
        query = values[0] if len(values) == 1 else np.stack(values)
    vector = read_vector(query, registry.num_texts, pairs=registry.rendering is not None)
    if len(vector) < len(view.variables):
        raise InputError(
            f"a PMI vector is of two log-likelihoods: expected shape (2, {registry.num_texts}), responses given their "
            f"prompts and alone; got ({registry.num_texts},)"
        )
    # Of one vector it is not known which it is: it is taken for what the view looks at.
    parts = vector if view.vector == "pmi" else vector[-1:] if view.vector == "response" else vector[:1]
    clipped, raw = (
        view_values([part[None] for part in parts], each, view.texts(registry.text_index))
        for each in (view, replace(view, clip=None))
    )
    # A vector has one number a text, so no fine coordinates; and says nothing of its dtype.
    empty = view_rows(registry, [], view, version)
    has_fine = "fine_coordinate" in arrays
    fine = fine_values(registry, view, empty.texts, lambda name: arrays[name][None]) if has_fine else (None, None)
    return replace(empty, values=clipped, unclipped=raw, designs=[None], noise=None, fine=fine[0], fine_text=fine[1])


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


def _describe(query: Rows, rows: Rows, ranks: Sequence[int]) -> list[Neighbor]:
    """Some rows with their ranks as neighbours of a row, with standard errors and what their records say."""
    result = kl_judged(query, rows, tail_share=True)
    values = {str(name): result[name].values[0] for name in result}
    return [
        Neighbor(
            row_id=record.row_id,
            model=record.identity.name,
            rank=rank,
            kl=float(values["kl_bits_per_byte"][i]),
            kl_se=float(values["kl_bits_per_byte_se"][i]),
            tail_share=float(values["tail_share"][i]),
            num_texts=int(values["num_texts"][i]),
            estimator="fine" if values["fine"][i] else "text",
            relation=relation(query.records[0], record) if query.records else "",
            verdict=values["verdict"][i],
            mark=values["mark"][i],
        )
        for i, (rank, record) in enumerate(zip(ranks, rows.records, strict=True))
    ]


def relation(a: RowRecord, b: RowRecord) -> str:
    """What two records declare of each other, as `Neighbor.relation` of row `b` beside query `a`."""
    name_a, name_b = a.identity.name, b.identity.name
    bases_a, bases_b = (set(record.base_models) for record in (a, b))
    if name_a == name_b:
        return "same model"
    if name_b in bases_a:
        return "declared base"
    if name_a in bases_b:
        return "declares it as its base"
    return "same declared base" if bases_a & bases_b else ""


_CONDITION = re.compile(r"\s*([a-z_]+)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*", re.DOTALL)
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


def _filter_records(records: Sequence[RowRecord], where: Sequence[str]) -> list[RowRecord]:
    """Records that meet all conditions."""
    columns = {column.name: column.stored(records) for column in ROW_COLUMNS}
    keep = [True] * len(records)
    for condition in where:
        match = _CONDITION.fullmatch(condition)
        if not match or match[1] not in columns:
            raise InputError(
                f"{condition!r}: expected FIELD=VALUE (or != < <= > >=) with FIELD one of {', '.join(columns)}"
            )
        field, sign, operand = match.groups()
        compare = _OPERATORS[sign]
        if field == "num_parameters":
            try:
                number = float(operand)
            except ValueError:
                raise InputError(f"{condition!r}: expected a number after {sign}; got {operand!r}") from None
            matches = [value >= 0 and compare(value, number) for value in columns[field]]  # -1: unknown
        else:
            matches = [compare(value, operand) for value in columns[field]]
        keep = [a and b for a, b in zip(keep, matches, strict=True)]
    return [record for record, meets in zip(records, keep, strict=True) if meets]
