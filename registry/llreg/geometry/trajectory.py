"""Trajectories: the checkpoints or sizes of one family as a path, and how fast it spreads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llreg.geometry.kl.distance import kl_rows
from llreg.geometry.kl.pairs import records_along
from llreg.geometry.steps import sizes_of, steps_of
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from xarray import Dataset

    from llreg.geometry.kl.rows import Rows

WINDOW, FEWEST = 10, 3  # later checkpoints that an exponent is fitted to: P3's number, and the least

Axis = Literal["step", "size"]


def trajectory(rows: Rows, *, order: Sequence[float] | None = None, by: Axis = "step", since: float = 0.0) -> Dataset:
    """The path that a family of models takes: KL from checkpoint to checkpoint and from the first one.

    Parameters
    ----------
    rows : Rows
        At least two; sorted here.
    order : sequence of float, optional
        Training steps, tokens or another clock, one a row. By default they are found in names and revisions
        (`llreg.geometry.steps.steps_of`), or are the declared numbers of parameters.
    by : {"step", "size"}
        What to look for if there is no `order`.
    since : float
        Checkpoints before this step start no exponent. P3 leaves out those before step 1000.

    Returns
    -------
    xarray.Dataset
        Dim ``checkpoint``, with row ids, model names (``model_id``) and the clock (``order``; NaN for a final model
        whose step is not known, which comes last) as coordinates. float64 ``kl_step`` from the previous checkpoint and
        ``kl_first`` from the first one, nats per text, each with ``…_se``, ``…_bits_per_byte`` and
        ``…_bits_per_byte_se``; NaN for the first. ``exponent`` of the checkpoints that start one, NaN elsewhere.
        Without a dim, in bits per byte: ``total``, the sum of the steps, and ``direct``, from the first to the last;
        ``ratio``, direct / total; ``exponent_mean`` and ``exponent_sd`` over the checkpoints. Why there is no
        exponent stands in the attribute ``exponent_note``.

    Raises
    ------
    InputError
        With fewer than two rows, a clock that lacks or repeats for some of them, or rows without common texts.

    Notes
    -----
    P3 (arXiv 2505.15353) follows a training run by the KL of consecutive checkpoints and by the diffusion exponent: the
    slope, by least squares, of ln KL(t0, t) on ln(t - t0) over the next ten checkpoints, for each start t0. With fewer
    checkpoints it is taken over those there are, at least three. KL is a squared distance: an exponent of 1 is Brownian
    motion, 2 a straight line at constant speed, 0 no lasting motion. In the same way the ratio is 1 for independent
    steps, above 1 for steps that go on in one direction (at most their number), below 1 for steps that turn back. The
    exponent's spread is the standard deviation over starts, which share checkpoints: no standard error.
    """
    clock = _clock(rows, order, by)
    positions = np.argsort(clock, kind="stable")  # NaN, the final model, goes last
    return _measure(rows.take(positions), clock[positions], timed=by == "step", since=since)


def trajectory_json(path: Dataset) -> dict[str, Any]:
    """A trajectory as plain values: attributes, numbers of the whole path, and a dict for each checkpoint."""
    scalars = {str(name): path[name].item() for name in path.data_vars if not path[name].dims}
    return {**path.attrs, **scalars, "checkpoints": records_along(path, "checkpoint")}


def _clock(rows: Rows, order: Sequence[float] | None, by: str) -> NDArray[np.float64]:
    if len(rows) < 2:
        raise InputError(f"a trajectory needs two rows; got {len(rows)}")
    if order is not None:
        clock = np.asarray(order, dtype=np.float64)
        if clock.shape != (len(rows),):
            raise InputError(f"order: expected {len(rows)} numbers, one a model; got {clock.size}")
        if not np.isfinite(clock).all():
            raise InputError("order: expected finite numbers")
    elif by == "step":
        clock = steps_of(rows.records)
    elif by == "size":
        clock = sizes_of(rows.records)
    else:
        raise InputError(f"by: expected step or size; got {by!r}")
    for value in np.unique(clock[~np.isnan(clock)]):
        same = np.flatnonzero(clock == value)
        if len(same) > 1:
            one, other = (rows.row_ids[k] for k in same[:2])
            raise InputError(
                f"{one} and {other} are both at {value:.15g}; leave one out, or give their places as order"
            )
    return clock


def _measure(rows: Rows, clock: NDArray[np.float64], *, timed: bool, since: float) -> Dataset:
    kl = kl_rows(rows, se=True, tail_share=False)
    result = _path(kl, clock)
    steps, direct = result["kl_step_bits_per_byte"].values[1:], float(result["kl_first_bits_per_byte"].values[-1])
    if np.isnan(steps).any() or math.isnan(direct):
        k = int(np.flatnonzero(np.isnan(steps))[0]) if np.isnan(steps).any() else len(steps) - 1
        raise InputError(
            f"no distance from {rows.labels[k]} to {rows.labels[k + 1]}: they share fewer than two texts; leave one out"
        )
    slopes = _exponents(kl["kl"].values, clock, since) if timed else np.full(len(rows), np.nan)
    found = slopes[~np.isnan(slopes)]
    total = float(steps.sum())
    scalars = {
        "total": (total, "bit/byte"),
        "direct": (direct, "bit/byte"),
        "ratio": (direct / total if total else math.nan, "1"),
        "exponent_mean": (float(found.mean()) if len(found) else math.nan, "1"),
        "exponent_sd": (float(found.std(ddof=1)) if len(found) > 1 else math.nan, "1"),
    }
    result["exponent"] = "checkpoint", slopes, {"units": "1"}
    result = result.assign({name: ((), value, {"units": units}) for name, (value, units) in scalars.items()})
    return result.assign_attrs({**kl.attrs, "exponent_note": "" if len(found) else _why_not(clock, timed)})


def _path(kl: Dataset, clock: NDArray[np.float64]) -> Dataset:
    """Distances from the previous and from the first checkpoint."""
    import xarray as xr

    count = len(clock)
    after = np.arange(1, count)
    variables = {}
    for name in ("kl", "kl_se", "kl_bits_per_byte", "kl_bits_per_byte_se"):
        for kind, before in (("step", after - 1), ("first", np.zeros_like(after))):
            values = np.full(count, np.nan)
            values[1:] = kl[name].values[before, after]
            variables[name.replace("kl", f"kl_{kind}", 1)] = ("checkpoint", values, dict(kl[name].attrs))
    coordinates = {
        "checkpoint": kl["model"].values,
        "model_id": ("checkpoint", kl["model_id"].values),
        "order": ("checkpoint", clock),
    }
    return xr.Dataset(variables, coords=coordinates)


def _exponents(kl: NDArray[np.float64], clock: NDArray[np.float64], since: float) -> NDArray[np.float64]:
    """Slope for each start, NaN where it has too few later checkpoints.

    If any start has a full window, those without one are left out, as in P3.
    """
    known = np.flatnonzero(~np.isnan(clock))
    windows = {int(start): known[k + 1 : k + 1 + WINDOW] for k, start in enumerate(known) if clock[start] >= since}
    # A copy of the start has KL 0 and no logarithm.
    windows = {start: later[kl[start, later] > 0] for start, later in windows.items()}
    fewest = WINDOW if any(len(later) == WINDOW for later in windows.values()) else FEWEST
    slopes = np.full(len(clock), np.nan)
    for start, later in windows.items():
        if len(later) >= fewest:
            slopes[start] = np.polyfit(np.log(clock[later] - clock[start]), np.log(kl[start, later]), 1)[0]
    return slopes


def _why_not(clock: NDArray[np.float64], timed: bool) -> str:
    if not timed:
        return "sizes are not times"
    known = int((~np.isnan(clock)).sum())
    return f"a start needs {FEWEST} later checkpoints with known steps and KL above 0; steps of {known} are known"
