"""Trajectories: the checkpoints or sizes of one family as a path, how fast it spreads, and the steps in models' names."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from llreg.geometry.kl.distance import kl_rows
from llreg_schemas.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from xarray import Dataset

    from llreg.geometry.kl.rows import Rows
    from llreg_schemas import RowRecord

WINDOW, FEWEST = 10, 3  # later checkpoints that an exponent is fitted to: Kishino et al.'s number, and the least

Axis = Literal["step", "size"]


def trajectory(rows: Rows, *, order: Sequence[float] | None = None, by: Axis = "step", since: float = 0.0) -> Dataset:
    """The path that a family of models takes: KL from checkpoint to checkpoint and from the first one.

    Behind `Registry.trajectory`, which describes parameters and errors. `rows` are seen through a view already.

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

    Notes
    -----
    Kishino et al. (arXiv 2505.15353) follow a training run by the KL of consecutive checkpoints and by the diffusion exponent: the
    slope, by least squares, of ln KL(t0, t) on ln(t - t0) over the next ten checkpoints, for each start t0. With fewer
    checkpoints it is taken over those there are, at least three. KL is a squared distance: an exponent of 1 is Brownian
    motion, 2 a straight line at constant speed, 0 no lasting motion. In the same way the ratio is 1 for independent
    steps, above 1 for steps that go on in one direction (at most their number), below 1 for steps that turn back. The
    exponent's spread is the standard deviation over starts, which share checkpoints: no standard error.
    """
    clock = _read_clock(rows, order, by)
    positions = np.argsort(clock, kind="stable")  # NaN, the final model, goes last
    rows, clock = rows.take(positions), clock[positions]
    kl = kl_rows(rows, se=True, tail_share=False)
    path = _path(kl, clock)
    steps, direct = path["kl_step_bits_per_byte"].values[1:], float(path["kl_first_bits_per_byte"].values[-1])
    if np.isnan(steps).any() or math.isnan(direct):
        k = int(np.flatnonzero(np.isnan(steps))[0]) if np.isnan(steps).any() else len(steps) - 1
        raise InputError(
            f"no distance from {rows.labels[k]} to {rows.labels[k + 1]}: they share fewer than two texts; leave one out"
        )
    exponents = _exponents(kl["kl"].values, clock, since) if by == "step" else np.full(len(rows), np.nan)
    slopes = exponents[~np.isnan(exponents)]
    note = ""
    if by != "step":
        note = "sizes are not times"
    elif not len(slopes):
        timed = int((~np.isnan(clock)).sum())
        note = f"a start needs {FEWEST} later checkpoints with known steps and KL above 0; steps of {timed} are known"
    total = float(steps.sum())
    scalars = {
        "total": (total, "bit/byte"),
        "direct": (direct, "bit/byte"),
        "ratio": (direct / total if total else math.nan, "1"),
        "exponent_mean": (float(slopes.mean()) if len(slopes) else math.nan, "1"),
        "exponent_sd": (float(slopes.std(ddof=1)) if len(slopes) > 1 else math.nan, "1"),
    }
    path["exponent"] = "checkpoint", exponents, {"units": "1"}
    path = path.assign({name: ((), value, {"units": units}) for name, (value, units) in scalars.items()})
    return path.assign_attrs({**kl.attrs, "exponent_note": note})


def _read_clock(rows: Rows, order: Sequence[float] | None, by: str) -> NDArray[np.float64]:
    """Step or size of each row, float64 array of shape (n_models,), all different; NaN for the final model."""
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
        ties = [rows.row_ids[k] for k in np.flatnonzero(clock == value)]
        if len(ties) > 1:
            raise InputError(
                f"{ties[0]} and {ties[1]} are both at {value:.15g}; leave one out, or give their places as order"
            )
    return clock


def _path(kl: Dataset, clock: NDArray[np.float64]) -> Dataset:
    """Distances from the previous and from the first checkpoint."""
    import xarray as xr

    count = len(clock)
    after = np.arange(1, count)
    variables = {}
    for name in ("kl", "kl_se", "kl_bits_per_byte", "kl_bits_per_byte_se"):
        for kind, start in (("step", after - 1), ("first", np.zeros_like(after))):
            values = np.full(count, np.nan)
            values[1:] = kl[name].values[start, after]
            variables[name.replace("kl", f"kl_{kind}", 1)] = ("checkpoint", values, dict(kl[name].attrs))
    coordinates = {
        "checkpoint": kl["model"].values,
        "model_id": ("checkpoint", kl["model_id"].values),
        "order": ("checkpoint", clock),
    }
    return xr.Dataset(variables, coords=coordinates)


def _exponents(kl: NDArray[np.float64], clock: NDArray[np.float64], since: float) -> NDArray[np.float64]:
    """Slope of ln KL(t0, t) on ln(t - t0) for each start t0, shape (n_models,); NaN with too few later checkpoints.

    If any start has a full window, those without one are left out, as in Kishino et al. (arXiv 2505.15353).
    """
    timed = np.flatnonzero(~np.isnan(clock))
    windows = {int(start): timed[k + 1 : k + 1 + WINDOW] for k, start in enumerate(timed) if clock[start] >= since}
    # A copy of the start has KL 0 and no logarithm.
    windows = {start: later[kl[start, later] > 0] for start, later in windows.items()}
    fewest = WINDOW if any(len(later) == WINDOW for later in windows.values()) else FEWEST
    slopes = np.full(len(clock), np.nan)
    for start, later in windows.items():
        if len(later) >= fewest:
            slopes[start] = np.polyfit(np.log(clock[later] - clock[start]), np.log(kl[start, later]), 1)[0]
    return slopes


# Steps and sizes of checkpoints

_NUMBER = r"(?P<number>\d+(?:\.\d+)?)"
_BEGIN, _END = r"(?:(?<=^)|(?<=[/])|[-_.@])", r"(?=$|[-_./@])"
# "step0300", "global_step_1000", "ckpt-50k", and with what was seen by then, "step1000-tokens4B", "step-50K-105b".
_STEP = re.compile(
    rf"{_BEGIN}(?:global[-_]?)?(?:step|ckpt|checkpoint|iter|iteration)s?[-_]?{_NUMBER}(?P<unit>[km]?)"
    rf"(?:[-_](?:tokens?[-_]?)?\d+(?:\.\d+)?[bt](?:[-_]?tok(?:en)?s?)?)?{_END}",
    re.IGNORECASE,
)
# "100B-tokens", "tokens_2.1T"; a bare "7B" is a size.
_TOKENS = re.compile(
    rf"{_BEGIN}(?:{_NUMBER}(?P<unit>[kmbt])[-_]?tok(?:en)?s?(?![-_]?\d)"  # not the size in "7b-tokens_2T"
    rf"|tok(?:en)?s?[-_]?(?P<number2>\d+(?:\.\d+)?)(?P<unit2>[kmbt])){_END}",
    re.IGNORECASE,
)
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


class Step(NamedTuple):
    """A checkpoint's place in a run: the name without it, "step" or "tokens", and how many."""

    stem: str
    kind: str
    value: float


class Family(NamedTuple):
    """Checkpoints of one run: its name, and the positions of the rows in order."""

    name: str
    positions: list[int]


def step_in(text: str) -> Step | None:
    """The training step in a model's name or a revision; None if there is none.

    Examples
    --------
    >>> step_in("org/run-step0300")
    Step(stem='org/run', kind='step', value=300.0)
    >>> step_in("org/run-7b-tokens_1.5T").value
    1500000000000.0
    """
    for kind, pattern in (("step", _STEP), ("tokens", _TOKENS)):
        match = pattern.search(text)
        if match:
            groups = match.groupdict()
            number, unit = (groups.get(name) or groups.get(f"{name}2") or "" for name in ("number", "unit"))
            return Step(text[: match.start()] + text[match.end() :], kind, float(number) * _UNITS[unit.lower()])
    return None


def record_step(record: RowRecord) -> Step | None:
    """The training step of a row: in its model's name, or in the revision, folder or file that it was loaded from."""
    step = step_in(record.identity.name)
    if step:
        return step
    for origin in (record.provenance.get("requested_revision"), record.identity.subfolder, record.identity.file):
        step = step_in(origin) if isinstance(origin, str) else None
        if step:
            return Step(record.identity.name, step.kind, step.value)
    return None


def steps_of(records: Sequence[RowRecord]) -> NDArray[np.float64]:
    """Training steps (or tokens) of checkpoints.

    Returns
    -------
    float64 array of shape (n_models,)
        NaN for the final model: the one without a step that has the name of the others.

    Raises
    ------
    InputError
        If a row has none, or some count steps and others tokens.
    """
    steps = [record_step(record) for record in records]
    kinds = sorted({step.kind for step in steps if step})
    stems = {step.stem for step in steps if step}
    missing = [record.identity.name for record, step in zip(records, steps, strict=True) if step is None]
    if not kinds or len(missing) > 1 or (missing and stems != set(missing)):
        raise InputError(f"no training step in the name of {missing[0]}; give every model's place with --order")
    if len(kinds) > 1:
        raise InputError("some names count steps and others tokens; give every model's place with --order")
    return np.array([math.nan if step is None else step.value for step in steps])


def sizes_of(records: Sequence[RowRecord]) -> NDArray[np.float64]:
    """Declared numbers of parameters, float64 array of shape (n_models,).

    Raises
    ------
    InputError
        If a row declares none.
    """
    sizes = [record.num_parameters for record in records]
    for record, size in zip(records, sizes, strict=True):
        if not isinstance(size, (int, float)):
            raise InputError(f"{record.identity.name} declares no number of parameters; give the sizes with --order")
    return np.array(sizes, dtype=np.float64)


def find_trajectories(records: Sequence[RowRecord]) -> list[Family]:
    """Runs among rows: those whose names differ in the step only, and the final model, if its name is the common part.

    Rows of one run were measured in the same weight dtype and quantisation. Of rows at one step the first is taken.

    Returns
    -------
    list of Family
        At least two positions each, by step and the final model last; sorted by name.
    """
    runs: dict[tuple[object, ...], dict[float, int]] = {}
    finals: dict[tuple[object, ...], int] = {}
    for position, record in enumerate(records):
        step = record_step(record)
        if step is None:
            finals.setdefault((record.identity.name, *_variant(record)), position)
        elif step.stem.rpartition("/")[2]:  # "org/step-3" is a name, not a checkpoint of org
            runs.setdefault((step.stem, *_variant(record), step.kind), {}).setdefault(step.value, position)
    families = []
    for key, steps in runs.items():
        final = finals.get(key[:-1])
        positions = [steps[value] for value in sorted(steps)] + ([] if final is None else [final])
        if len(positions) > 1:
            families.append(Family(str(key[0]), positions))
    return sorted(families, key=lambda family: (family.name, family.positions))


def find_family(records: Sequence[RowRecord], name: str) -> list[str]:
    """Row ids of the run of that name, in order; its organisation can be left out.

    Raises
    ------
    NotFoundError
        If there is none; the message lists those there are.
    InputError
        If there are several.
    """
    families = find_trajectories(records)
    matching = [family for family in families if name in (family.name, family.name.rpartition("/")[2])]
    if not matching:
        names = ", ".join(dict.fromkeys(family.name for family in families)) or "none"
        raise NotFoundError(f"no family of checkpoints {name!r}; families here: {names}")
    if len(matching) > 1:
        starts = ", ".join(records[family.positions[0]].row_id for family in matching)
        raise InputError(f"{name!r} means {len(matching)} families, which begin with {starts}; name the models")
    return [records[position].row_id for position in matching[0].positions]


def _variant(record: RowRecord) -> tuple[object, ...]:
    """What rows of one run have in common besides the name."""
    identity = record.identity
    adapter = tuple(sorted(identity.adapter.items())) if identity.adapter else None
    return identity.weight_dtype, identity.quantization, adapter
