"""New rows measured against the rows of a registry: levels, distances, and how far replicates agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llreg.geometry.kl.noise import noise_bound
from llreg.hub.judge.population import Distances, Population, levels
from llreg.store.rowfile import row_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.rows import Rows
    from llreg.geometry.neighbors import Neighbor
    from llreg.verify.comparison import Agreement

NEAREST = 3  # neighbours that are listed
REPLICATES = 5  # rows of one identity that a new one is compared with text by text: those that differ most
ENOUGH = 20  # rows below which median and spread of a registry say nothing: nothing is then called unusual
MIN_TEXTS = 20  # texts shared with a row here, or half of the view's if that is less: fewer say nothing


@dataclass(frozen=True)
class Replicate:
    """An accepted row with the identity of a new one, and how far their values agree.

    Attributes
    ----------
    row_id : str
    kl, bound : float
        Their KL divergence, and the largest that the arithmetic of their dtypes is likely to show, nats per text.
    max_difference, rms_difference : float
        Of the log-likelihoods of one text, nats; NaN where no text is shared.
    num_texts : int
        Texts of the view that both have.
    """

    row_id: str
    kl: float
    bound: float
    max_difference: float
    rms_difference: float
    num_texts: int

    @property
    def agrees(self) -> bool:
        """Whether their arithmetic explains all of the difference."""
        return self.distance <= self.bound

    @property
    def distance(self) -> float:
        """Half the mean square difference, or the KL where that is more, nats per text; NaN where it is not known.

        KL is half the variance, which a constant that is added to all texts leaves as it is.
        """
        return math.nan if math.isnan(self.kl) else max(self.kl, self.rms_difference**2 / 2)


@dataclass(frozen=True)
class Measured:
    """What was measured of a new row against the registry's.

    Attributes
    ----------
    row_id, model, file : str
    shared, least : int
        Texts of the view that it shares with one of the registry's own rows, at most; and how many it takes to compare.
    mean, spread : float
        Minus log-likelihood, bits per byte: its mean, and its standard deviation over texts; NaN if it has no value there.
    mean_z, spread_z : float
        How unusual these are here: robust z; NaN where there are too few rows.
    far_share : float
        Share of the pairs of rows here that are at least as far apart as this row is from its nearest; NaN as above.
    nearest, bases, siblings : sequence of Neighbor
        Nearest rows; rows of the declared base models; rows of the same model that were measured otherwise.
    missing_bases : sequence of str
        Declared base models that have no row here.
    replicates : sequence of Replicate
    recomputed : Agreement or None
    """

    row_id: str
    model: str
    file: str
    shared: int
    least: int
    mean: float
    spread: float
    mean_z: float
    spread_z: float
    far_share: float
    nearest: Sequence[Neighbor]
    bases: Sequence[Neighbor]
    siblings: Sequence[Neighbor]
    missing_bases: Sequence[str]
    replicates: Sequence[Replicate]
    recomputed: Agreement | None = None


def measure(new: Rows, population: Population) -> list[Measured]:
    """Measure new rows against those of a population.

    Parameters
    ----------
    new : Rows
        Through the population's view.
    population : Population
        It holds the new rows, too: they are compared with each other.
    """
    distances = population.distances(new)
    shared = population.shared(new, distances)
    mean, spread = levels(new)
    population_mean, population_spread = population.levels
    mean_z, spread_z = robust_z(mean, population_mean), robust_z(spread, population_spread)
    # Share of the pairs of rows here that are at least as far apart as a new row is from its nearest.
    far_share = np.full(len(new), np.nan)
    if len(population_mean) >= ENOUGH and len(population.pairs):
        bits = np.where(np.isnan(distances.bits), np.inf, distances.bits)  # (n_new, n_models)
        nearest_bits = bits.min(axis=1, initial=np.inf)
        far_share = 1 - np.searchsorted(population.pairs, nearest_bits, side="left") / len(population.pairs)

    records, measured = population.records, []
    models = {record.identity.name for record in records}
    # Half of a small view is enough, else nothing would ever compare in it.
    least = min(MIN_TEXTS, math.ceil(new.values.shape[1] / 2))
    for i, record in enumerate(new.records):
        bits_of_row, identity = distances.bits[i], record.identity
        comparable = [int(k) for k in np.argsort(bits_of_row, kind="stable") if not np.isnan(bits_of_row[k])]
        nearest = comparable[:NEAREST]
        # `comparable` is in order of distance, so the first row of a model is its nearest.
        nearest_of_model: dict[str, int] = {}
        for k in comparable:
            nearest_of_model.setdefault(records[k].identity.name, k)
        declared = set(record.base_models)
        bases = sorted(nearest_of_model[model] for model in declared & nearest_of_model.keys())
        # The same model measured otherwise: other dtype, quantisation, file or revision.
        same_model = [k for k in comparable if records[k].identity.name == identity.name]
        siblings = [k for k in same_model if not records[k].identity.is_replicate_of(identity)][:NEAREST]
        # The same model measured in the same way. Those that share too few texts have no distance; nor has the row itself.
        same_identity = [
            k for k, row in enumerate(records) if row.identity.is_replicate_of(identity) and row.digest != record.digest
        ]
        replicates = [k for k in comparable if k in same_identity][-REPLICATES:]
        replicates += [k for k in same_identity if np.isnan(bits_of_row[k])][:REPLICATES]
        # Each once: standard errors take a pass over the texts.
        positions = list(dict.fromkeys([*nearest, *bases, *siblings]))
        neighbors = dict(zip(positions, population.neighbors(new, i, distances, positions), strict=True))
        measured.append(
            Measured(
                row_id=record.row_id,
                model=identity.name,
                file=row_path(record).as_posix(),
                shared=int(shared[i]),
                least=least,
                mean=float(mean[i]),
                spread=float(spread[i]),
                mean_z=float(mean_z[i]),
                spread_z=float(spread_z[i]),
                far_share=float(far_share[i]),
                nearest=[neighbors[k] for k in nearest],
                bases=[neighbors[k] for k in bases],
                siblings=[neighbors[k] for k in siblings],
                missing_bases=sorted(declared - models),
                replicates=[_replicate(new, i, population, k, distances) for k in replicates],
            )
        )
    return measured


def _replicate(new: Rows, i: int, population: Population, k: int, distances: Distances) -> Replicate:
    """The i-th new row against the k-th of the population, text by text."""
    row = population.some([k])
    difference = np.abs(new.raw[i] - row.raw[0])  # (n_texts,), nats
    difference = difference[~np.isnan(difference)]
    return Replicate(
        row_id=row.row_ids[0],
        kl=float(distances.kl[i, k]),
        bound=float(noise_bound(distances.floor[i, k], distances.num_texts[i, k])),
        max_difference=float(difference.max()) if len(difference) else math.nan,
        rms_difference=float(np.sqrt((difference**2).mean())) if len(difference) else math.nan,
        num_texts=len(difference),
    )


def robust_z(values: NDArray[np.float64], sample: NDArray[np.float64]) -> NDArray[np.float64]:
    """Deviations from the median of a sample over 1.4826 x its median absolute deviation; NaN if it is too small.

    1.4826 makes it the standard deviation of a normal sample (Rousseeuw and Croux 1993, section 1).

    Parameters
    ----------
    values : float64 array of shape (n,)
    sample : float64 array of shape (n_models,)
        NaN is left out.

    Returns
    -------
    float64 array of shape (n,)
    """
    sample = sample[np.isfinite(sample)]
    if len(sample) < ENOUGH:
        return np.full(len(values), np.nan)
    middle = np.median(sample)
    scale = 1.4826 * np.median(np.abs(sample - middle))
    return np.asarray((values - middle) / max(scale, 1e-12))
