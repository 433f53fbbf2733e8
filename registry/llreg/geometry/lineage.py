"""Is one model derived from another? Distances against what unrelated models show."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llreg.geometry.families import related_groups
from llreg.geometry.kl.distance import kl_plain, kl_rows
from llreg.geometry.kl.rows import load_rows
from llreg.geometry.neighbors import Neighbor, neighbors
from llreg.geometry.view.view import View, view_of
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents
    from llreg_schemas import RowRecord

_MIN_PAIRS = 20  # unrelated pairs that a null needs at all
_ENOUGH = 200  # with so many of its own kind, no wider kind is asked
_MAX_ROWS = 1500  # rows that make up the null; of more a sample is taken
_TESTED = 500  # nearest rows that are tested; those beyond count as tests with larger p


@dataclass(frozen=True)
class Relative:
    """A row tested for kinship with the query.

    Attributes
    ----------
    neighbor : Neighbor
        The row, its KL and what its record declares.
    p : float
        Share of unrelated pairs that are as close, the pair itself counted in; NaN where there are too few of them.
    q : float
        The same after Benjamini and Hochberg's correction over all rows: the expected share of false findings.
    null : str
        Which unrelated pairs it was compared with.
    null_pairs, null_families : int
        How many, and between how many pairs of families they are: clones of a model make many pairs that say one thing.
    finding : {"identical", "same within noise", "related", ""}
    """

    neighbor: Neighbor
    p: float
    q: float
    null: str
    null_pairs: int
    null_families: int
    finding: str


@dataclass(frozen=True)
class Lineage:
    """What distances say of a row's relatives.

    Attributes
    ----------
    query : str
        Row id.
    relatives : sequence of Relative
        Nearest first.
    declared_bases : sequence of Relative
        Rows of the declared base models.
    missing_bases : sequence of str
        Declared base models without a row here.
    num_tests : int
        Rows tested, over which q corrects.
    version : str
    view : View
    """

    query: str
    relatives: Sequence[Relative]
    declared_bases: Sequence[Relative]
    missing_bases: Sequence[str]
    num_tests: int
    version: str
    view: View

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values, with the view's document."""
        return {**asdict(self), "view": self.view.to_json()}


def lineage(
    registry: Contents,
    model: str,
    *,
    candidates: int = 10,
    level: float = 0.05,
    view: View | None = None,
    families: Mapping[str, str] | None = None,
) -> Lineage:
    """Test the nearest rows for kinship with a row.

    Behind `Registry.lineage`, which describes parameters, result and errors.

    Notes
    -----
    Testing provenance by comparison with unrelated models: Nikolic et al., arXiv 2502.00706. Here the statistic of a
    pair is ln KL(A, B) less the mean of the two models' own medians of ln KL to unrelated rows, since some models are
    far from everything. Its null are the pairs that are declared unrelated and of the same kind (both
    architectures and sizes as in the pair; where there are under 200 of these, equal or unequal in both as the pair is; then
    all), without those of the query, and p = (1 + null pairs at most as large) / (1 + null pairs): a rank, so it is
    calibrated if unrelated pairs of a kind are alike, whatever their distribution, and it claims no more than their number
    allows. Undeclared relatives among them make p too large, never too small. q is Benjamini and Hochberg's over all
    rows. KL is symmetric: kinship found here has no direction, and a sibling may be as near as a parent.
    """
    if candidates < 1:
        raise InputError(f"candidates: expected at least 1; got {candidates}")
    nearby = neighbors(registry, model, k=max(candidates, _TESTED), view=view)
    records, _ = registry.select(None)
    tested = {neighbor.row_id: neighbor for neighbor in (*nearby.nearest, *nearby.bases)}
    null = _Null(registry, records, [nearby.query, *tested], nearby.view, families or {})
    tests = [null.test(i) for i in range(1, len(tested) + 1)]
    q_values = benjamini_hochberg([test.p for test in tests], len(records) - 1)
    relatives = {}  # by row id: a declared base may be among the nearest, too
    for neighbor, test, q in zip(tested.values(), tests, q_values, strict=True):
        finding = "related" if q <= level else ""
        if neighbor.verdict in ("identical", "same within noise"):
            finding = neighbor.verdict
        relatives[neighbor.row_id] = Relative(neighbor, test.p, q, test.kind, test.pairs, test.families, finding)
    return Lineage(
        query=nearby.query,
        relatives=[relatives[neighbor.row_id] for neighbor in nearby.nearest[:candidates]],
        declared_bases=[relatives[base.row_id] for base in nearby.bases],
        missing_bases=nearby.missing_bases,
        num_tests=len(records) - 1,
        version=nearby.version,
        view=nearby.view,
    )


class _Test(NamedTuple):
    """Of one pair: its p, the kind of null pairs, their number, and that of pairs of families among them."""

    p: float
    kind: str
    pairs: int
    families: int


class _Null:
    """Distances between unrelated models, by kind of pair.

    Parameters
    ----------
    registry : Contents
    records : sequence of RowRecord
        All rows.
    tested : sequence of str
        Row ids of the query and of the rows to test.
    view : View
    families : mapping of str to str
    """

    def __init__(
        self,
        registry: Contents,
        records: Sequence[RowRecord],
        tested: Sequence[str],
        view: View,
        families: Mapping[str, str],
    ) -> None:
        positions = {record.row_id: k for k, record in enumerate(records)}
        first = [positions[row_id] for row_id in tested]
        # Of the other rows all take part, or `_MAX_ROWS` of them, spread evenly.
        rest = np.setdiff1d(np.arange(len(records)), first)
        rest = rest[np.linspace(0, len(rest) - 1, min(_MAX_ROWS, len(rest))).astype(int)]
        rows = [*first, *rest.tolist()]
        sample = [records[k] for k in rows]  # the query is the first, then the rows to test
        self._family = np.array(related_groups(records, families))[rows]
        self._architecture = np.unique([record.architecture or "" for record in sample], return_inverse=True)[1]
        self._log_size = np.log2([float(record.num_parameters or np.nan) for record in sample])
        # Score of each pair: ln KL less the mean of both rows' medians, (n_sample, n_sample); NaN where unknown.
        rows_in_view = load_rows(registry, [record.row_id for record in sample], view)
        result = kl_plain(rows_in_view, se=False, tail_share=False)
        # All by one estimator, which is the query's: others are of another size.
        kl = np.where(result["fine"].values == rows_in_view.has_fine[0], result["kl"].values, np.nan)
        logs = np.log(np.maximum(kl, 1e-12))  # identical rows: far below any other distance
        unrelated = self._family[:, None] != self._family[None, :]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # rows without an unrelated one have no median
            median = np.nanmedian(np.where(unrelated, logs, np.nan), axis=1)
        scores = logs - (median[:, None] + median[None, :]) / 2
        self._of_query = scores[0]
        # The null: pairs of two families, without those of the query, each once.
        i, j = np.triu_indices(len(sample), 1)
        null = unrelated[i, j] & (i > 0) & ~np.isnan(scores[i, j])
        self._i, self._j = i[null], j[null]  # (n_null_pairs,): the rows of each null pair
        self._scores = scores[self._i, self._j]

    def test(self, i: int) -> _Test:
        """Test the i-th row against the query."""
        score = self._of_query[i]
        for kind, pairs in self._kinds(i):
            count = int(pairs.sum())
            if count < (_MIN_PAIRS if kind == "any" else _ENOUGH):
                continue
            p = math.nan if np.isnan(score) else float((1 + (self._scores[pairs] <= score).sum()) / (1 + count))
            ends = np.sort([self._family[self._i[pairs]], self._family[self._j[pairs]]], axis=0)
            num_families = len(np.unique(ends[0] * (self._family.max() + 1) + ends[1]))  # one number a pair of families
            return _Test(p, kind, count, num_families)
        return _Test(math.nan, "too few unrelated rows", 0, 0)

    def _kinds(self, k: int) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Which null pairs to compare query and k-th row with, from those of the pair's own kind to all."""
        like_query, like_k = (
            (self._architecture == self._architecture[row]) & (np.abs(self._log_size - self._log_size[row]) <= 1)
            for row in (0, k)
        )
        i, j = self._i, self._j
        yield "same architectures and sizes", like_query[i] & like_k[j] | like_k[i] & like_query[j]
        same_architecture = self._architecture[i] == self._architecture[j]
        same_size = np.abs(self._log_size[i] - self._log_size[j]) <= 1  # within a factor of two; unknown: no
        architecture = self._architecture[0] == self._architecture[k]
        size = bool(np.abs(self._log_size[0] - self._log_size[k]) <= 1)
        yield "alike in architecture and size", (same_architecture == architecture) & (same_size == size)
        yield "any", np.ones(len(i), dtype=bool)


def benjamini_hochberg(p: Sequence[float], num_tests: int) -> list[float]:
    """q values of the smallest p values of a number of tests.

    Parameters
    ----------
    p : sequence of float
        The smallest; the others are taken to be larger. NaN stays NaN.
    num_tests : int

    Returns
    -------
    list of float
        Benjamini and Hochberg 1995: the least false discovery rate at which each would count as found.
    """
    order = sorted(range(len(p)), key=lambda k: (math.isnan(p[k]), p[k]))
    q, least = [math.nan] * len(p), 1.0
    for rank in range(len(order), 0, -1):
        k = order[rank - 1]
        if not math.isnan(p[k]):
            least = q[k] = min(least, p[k] * num_tests / rank)
    return q


@dataclass(frozen=True)
class Duplicates:
    """Rows that cannot be told apart.

    Attributes
    ----------
    row_ids : sequence of str
    verdict : {"identical", "same within noise"}
        The weakest of the pairs that connect them.
    """

    row_ids: Sequence[str]
    verdict: str


def duplicates(registry: Contents, *, view: View | None = None) -> list[Duplicates]:
    """Groups of rows of different models that are identical, or the same within noise.

    Behind `Registry.duplicates`, which describes parameters, result and errors.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    rows = load_rows(registry, None, view_of(registry, view))
    result = kl_rows(rows, se=False, tail_share=False)
    names = np.array(rows.names, dtype=object)
    identical = result["verdict"].values == "identical"  # (n_models, n_models)
    alike = identical | (result["verdict"].values == "same within noise")
    alike &= names[:, None] != names[None, :]
    count, group = connected_components(csr_array(alike), directed=False)
    groups = []
    for members in (np.flatnonzero(group == g) for g in range(count)):
        if len(members) > 1:
            block = np.ix_(members, members)
            verdict = "identical" if identical[block][alike[block]].all() else "same within noise"
            groups.append(Duplicates([rows.row_ids[k] for k in members], verdict))
    return sorted(groups, key=lambda group: (-len(group.row_ids), group.row_ids))
