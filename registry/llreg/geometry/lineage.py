"""Is one model derived from another? Distances against what unrelated models show."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llreg.geometry.neighbors import Neighbor, neighbors
from llreg.geometry.view import View
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.registry import Registry
    from llreg_schemas import RowRecord

_MIN_PAIRS = 20  # unrelated pairs that a null needs at all
_ENOUGH = 200  # with so many of its own kind, no wider kind is asked
_FENCE = 3.0  # interquartile ranges below the lower quartile: Tukey's "far out"
_MAX_ROWS = 3000  # rows that make up the null; more are sampled


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
    null_pairs : int
        How many.
    finding : {"identical", "same within noise", "related", ""}
    """

    neighbor: Neighbor
    p: float
    q: float
    null: str
    null_pairs: int
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


def lineage(
    registry: Registry,
    model: str,
    *,
    candidates: int = 10,
    level: float = 0.05,
    view: View | None = None,
    families: Mapping[str, str] | None = None,
) -> Lineage:
    """Test the nearest rows for kinship with a row.

    Parameters
    ----------
    registry : Registry
    model : str
        A row, as in `Registry.find`.
    candidates : int
        How many of the nearest rows to show; all rows count as tests.
    level : float
        False discovery rate up to which a row counts as related.
    view : View, optional
        The registry's own by default.
    families : mapping of str to str, optional
        Family of each model name, where it is known: models of one family count as related, as do declared ones.

    Raises
    ------
    NotFoundError, InputError
        As `llreg.geometry.neighbors.neighbors`.

    Notes
    -----
    Testing provenance by comparison with unrelated models: Nikolic et al., arXiv 2502.00706. Here the statistic of a
    pair is ln KL(A, B) less the mean of the two models' own medians of ln KL to unrelated rows, since some models are
    far from everything. Its null are the pairs that are declared unrelated and of the same kind (both
    architectures and sizes as in the pair; where there are under 200 of these, equal or unequal in both as the pair is; then
    all), and p = (1 + null pairs at most as large) / (1 + null pairs): a rank, so it is calibrated if unrelated pairs of
    a kind are alike, whatever their distribution, and it claims no more than their number allows. Undeclared
    relatives among them make p too large; those beyond Tukey's outer fence (3 interquartile ranges below the
    quartile) are taken out. q is Benjamini and Hochberg's. KL is symmetric: kinship found here has no direction,
    and a sibling may be as near as a parent.
    """
    if candidates < 1:
        raise InputError(f"candidates: expected at least 1; got {candidates}")
    found = neighbors(registry, model, k=candidates, view=view)
    shown = [*found.nearest, *found.bases]
    records, _ = registry.select(None)
    null = _Null(registry, records, [found.query, *(neighbor.row_id for neighbor in shown)], found.view, families or {})
    tests = [null.test(i) for i in range(1, len(shown) + 1)]
    p = [test.p for test in tests]
    near = len(found.nearest)
    corrected = benjamini_hochberg(p[:near], len(records) - 1)
    known = {neighbor.row_id: q for neighbor, q in zip(found.nearest, corrected, strict=True)}
    # A base that is not among the nearest is farther than they are: its q is at least that of the last of them.
    corrected += [known.get(base.row_id, max(p[near + k], corrected[-1])) for k, base in enumerate(found.bases)]
    relatives = [
        Relative(neighbor, test.p, q, test.kind, test.pairs, _finding(neighbor, q, level))
        for neighbor, test, q in zip(shown, tests, corrected, strict=True)
    ]
    return Lineage(
        query=found.query,
        relatives=relatives[:near],
        declared_bases=relatives[near:],
        missing_bases=found.missing_bases,
        num_tests=len(records) - 1,
        version=found.version,
        view=found.view,
    )


def _finding(neighbor: Neighbor, q: float, level: float) -> str:
    if neighbor.verdict in ("identical", "same within noise"):
        return neighbor.verdict
    return "related" if q <= level else ""


@dataclass(frozen=True)
class _Test:
    p: float
    kind: str
    pairs: int


class _Null:
    """Distances between unrelated models, by kind of pair.

    Parameters
    ----------
    registry : Registry
    records : sequence of RowRecord
        All rows.
    chosen : sequence of str
        Row ids of the query and of the rows to test.
    view : View
    families : mapping of str to str
    """

    def __init__(
        self,
        registry: Registry,
        records: Sequence[RowRecord],
        chosen: Sequence[str],
        view: View,
        families: Mapping[str, str],
    ) -> None:
        ids = {record.row_id: k for k, record in enumerate(records)}
        self._at = [ids[row_id] for row_id in chosen]
        family = np.array(related_groups(records, families))
        self._unrelated = family[:, None] != family[None, :]
        self._names = np.array([record.declared.get("architecture") or "" for record in records], dtype=object)
        self._log_size = np.log2([float(record.declared.get("num_parameters") or np.nan) for record in records])
        self._scores = self._pair_scores(registry, records, view)

    def _pair_scores(self, registry: Registry, records: Sequence[RowRecord], view: View) -> NDArray[np.float64]:
        """ln KL less the mean of both rows' medians, float64 array of shape (n_models, n_models); NaN where unknown."""
        kl = np.full((len(records), len(records)), np.nan)
        rows = self._at + _sample(len(records), _MAX_ROWS, self._at)
        some = [records[k] for k in rows]
        kl[np.ix_(rows, rows)] = registry.kl([record.row_id for record in some], view=view, se=False, tail_share=False)[
            "kl"
        ].values
        logs = np.log(np.maximum(kl, 1e-12))  # identical rows: far below any other distance
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # rows without an unrelated one have no median
            middle = np.nanmedian(np.where(self._unrelated, logs, np.nan), axis=1)
        return np.asarray(logs - (middle[:, None] + middle[None, :]) / 2)

    def test(self, i: int) -> _Test:
        """Test the i-th chosen row against the first."""
        a, b = self._at[0], self._at[i]
        for kind, pairs in self._kinds(a, b):
            sample = null_sample(self._scores[pairs & self._unrelated])
            if len(sample) >= (_MIN_PAIRS if kind == "any" else _ENOUGH):
                return _Test(float((1 + (sample <= self._scores[a, b]).sum()) / (1 + len(sample))), kind, len(sample))
        return _Test(math.nan, "too few unrelated rows", 0)

    def _kinds(self, a: int, b: int) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Pairs to compare a pair with, from its own kind to all; each pair once (upper triangle)."""
        upper = np.triu(np.ones_like(self._unrelated), 1)
        upper[[a, b], [b, a]] = False
        like = [(self._names == self._names[k]) & (np.abs(self._log_size - self._log_size[k]) <= 1) for k in (a, b)]
        both = np.outer(like[0], like[1])
        yield "same architectures and sizes", (both | both.T) & upper
        architecture = self._names[:, None] == self._names[None, :]
        size = np.abs(self._log_size[:, None] - self._log_size[None, :]) <= 1
        yield "alike in architecture and size", (architecture == architecture[a, b]) & (size == size[a, b]) & upper
        yield "any", upper


def null_sample(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores of unrelated pairs without those far below the others: undeclared relatives.

    Parameters
    ----------
    scores : float64 array of shape (n_pairs,)

    Returns
    -------
    float64 array of shape (n_kept,)
    """
    scores = scores[~np.isnan(scores)]
    if not len(scores):
        return scores
    low, high = np.quantile(scores, [0.25, 0.75])
    return np.asarray(scores[scores >= low - _FENCE * (high - low)])


def _sample(count: int, most: int, taken: Sequence[int]) -> list[int]:
    """Positions besides those taken: all, or at most `most` spread evenly."""
    others = np.setdiff1d(np.arange(count), taken)
    return [int(k) for k in others[np.linspace(0, len(others) - 1, min(most, len(others))).astype(int)]]


def related_groups(records: Sequence[RowRecord], families: Mapping[str, str]) -> list[int]:
    """A number a row; rows have the same where something connects them: one model, base and derived, one given family.

    Returns
    -------
    list of int
        Of length n_models.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    for record in records:
        for base in record.declared.get("base_model") or ():
            parent[root(record.identity.model)] = root(str(base))
        if record.identity.model in families:
            parent[root(record.identity.model)] = root(f"family\n{families[record.identity.model]}")  # no model's name
    numbers: dict[str, int] = {}
    return [numbers.setdefault(root(record.identity.model), len(numbers)) for record in records]


def benjamini_hochberg(p: Sequence[float], num_tests: int) -> list[float]:
    """q values of the smallest p values of a number of tests.

    Parameters
    ----------
    p : sequence of float
        Those not given are taken to be larger. NaN stays NaN.
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
        The weakest that connects them.
    """

    row_ids: Sequence[str]
    verdict: str


def duplicates(registry: Registry, *, view: View | None = None) -> list[Duplicates]:
    """Groups of rows of different models that are identical, or the same within noise.

    Parameters
    ----------
    registry : Registry
    view : View, optional
        The registry's own by default.

    Returns
    -------
    list of Duplicates
        Largest first. Replicates of one model are not duplicates.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    from llreg.geometry.distance import kl_rows
    from llreg.geometry.noise import noise_bound

    rows = registry.rows(view=view or registry.view)
    result = kl_rows(rows, se=False, tail_share=False)
    kl = result["kl"].values
    same = kl <= noise_bound(result["noise_floor"].values, result["num_texts"].values)
    names = np.array(rows.names, dtype=object)
    same &= names[:, None] != names[None, :]
    count, group = connected_components(csr_array(same), directed=False)
    members = [np.flatnonzero(group == g) for g in range(count)]
    return sorted(
        (
            Duplicates(
                [rows.row_ids[k] for k in some],
                "identical" if (kl[np.ix_(some, some)] == 0).all() else "same within noise",
            )
            for some in members
            if len(some) > 1
        ),
        key=lambda found: (-len(found.row_ids), found.row_ids),
    )
