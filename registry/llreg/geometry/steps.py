"""Training steps and sizes of checkpoints, found in their names, and the families they form."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llreg_schemas.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg_schemas import RowRecord

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
        found = pattern.search(text)
        if found:
            parts = found.groupdict()
            number, unit = (parts.get(name) or parts.get(f"{name}2") or "" for name in ("number", "unit"))
            return Step(text[: found.start()] + text[found.end() :], kind, float(number) * _UNITS[unit.lower()])
    return None


def record_step(record: RowRecord) -> Step | None:
    """The training step of a row: in its model's name, or in the revision, folder or file that it was loaded from."""
    named = step_in(record.identity.name)
    if named:
        return named
    for place in (record.provenance.get("requested_revision"), record.identity.subfolder, record.identity.file):
        found = step_in(place) if isinstance(place, str) else None
        if found:
            return Step(record.identity.name, found.kind, found.value)
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
    list of (name, positions)
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
    found = []
    for key, steps in runs.items():
        final = finals.get(key[:-1])
        positions = [steps[value] for value in sorted(steps)] + ([] if final is None else [final])
        if len(positions) > 1:
            found.append(Family(str(key[0]), positions))
    return sorted(found, key=lambda family: (family.name, family.positions))


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
        known = ", ".join(dict.fromkeys(family.name for family in families)) or "none"
        raise NotFoundError(f"no family of checkpoints {name!r}; families here: {known}")
    if len(matching) > 1:
        starts = ", ".join(records[family.positions[0]].row_id for family in matching)
        raise InputError(f"{name!r} means {len(matching)} families, which begin with {starts}; name the models")
    return [records[position].row_id for position in matching[0].positions]


def _variant(record: RowRecord) -> tuple[object, ...]:
    identity = record.identity
    adapter = tuple(sorted(identity.adapter.items())) if identity.adapter else None
    return identity.weight_dtype, identity.quantization, adapter
