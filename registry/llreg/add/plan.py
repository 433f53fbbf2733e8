"""What an `add` will take: checked for every model before anything of it is downloaded or loaded."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import llreg_extract
from llreg.add.pinned import Pinned, find_present, journal_of, pin
from llreg.add.reporter import AddResult
from llreg.add.request import Entry, Request, check_texts, read_requests
from llreg.printable import shown_bytes
from llreg_schemas import RowRecord
from llreg_schemas.errors import InputError, ModelError

if TYPE_CHECKING:
    from llreg.store.contents import Contents

BYTES_A_TOKEN = 4.0  # of English text, where no row tells; exact counts would cost every model's tokenizer
_NEAREST = 5  # rows of the nearest parameter counts that a speed is estimated from

State = Literal["to do", "unfinished", "incomplete", "present", "problem"]


@dataclass(frozen=True)
class PlannedModel:
    """What adding one model will take. Of a model that was not found only `model`, `state` and `problem` say something.

    Attributes
    ----------
    model : str
        As it was given.
    state : {"to do", "unfinished", "incomplete", "present", "problem"}
        "unfinished": an interrupted run goes on; "incomplete": its row lacks texts, which will be scored.
    problem : str or None
        Why it will not be added, one sentence.
    name : str or None
        The name that its row gets.
    base : str or None
        Of an adapter, the model that it is laid over; the revision is that model's.
    revision, file, subfolder, dtype, quantization, device : str or None
        Commit or hash, the GGUF file, the folder, and what it will be scored in and on.
    row_id : str or None
        Of the row that is there.
    num_parameters, download_bytes, memory_bytes : int or None
        None where it is not known. `memory_bytes` is 1.2 times the weights and 512 MiB.
    texts, tokens : int
        Left to be scored; tokens are estimated: as many a byte as rows that are there took, or else a quarter.
    seconds : float or None
        Estimated time of scoring; None where no row was made on this device.
    """

    model: str
    state: State
    problem: str | None = None
    name: str | None = None
    base: str | None = None
    revision: str | None = None
    file: str | None = None
    subfolder: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    device: str | None = None
    row_id: str | None = None
    num_parameters: int | None = None
    download_bytes: int | None = None
    memory_bytes: int | None = None
    texts: int = 0
    tokens: int = 0
    seconds: float | None = None

    @property
    def is_left(self) -> bool:
        """Whether it will be scored."""
        return self.state not in ("present", "problem")


@dataclass(frozen=True)
class Plan:
    """What an `add` will take.

    Attributes
    ----------
    models : sequence of PlannedModel
        In the order given.
    entries : sequence of (str or mapping)
        As they were given.
    devices : mapping of str to DeviceMemory
        The devices that models will be scored on.
    disk_free : int
        Bytes free where downloads go.
    evict : bool
        Whether models are deleted again when they are done.
    """

    models: Sequence[PlannedModel]
    entries: Sequence[Entry]
    devices: Mapping[str, llreg_extract.DeviceMemory]
    disk_free: int
    evict: bool = False

    @property
    def problems(self) -> list[PlannedModel]:
        """The models that will not be added."""
        return [model for model in self.models if model.problem is not None]

    @property
    def good(self) -> list[Entry]:
        """What to give to `llreg.add.add.add`: the entries without a problem."""
        return [entry for entry, model in zip(self.entries, self.models, strict=True) if model.problem is None]

    def results(self, added: Sequence[AddResult]) -> list[AddResult]:
        """Results of all models in the order given: those of `good`, and the problems as "failed"."""
        rest = iter(added)
        return [
            next(rest) if model.problem is None else AddResult(model.model, "failed", None, model.problem)
            for model in self.models
        ]

    @property
    def download_bytes(self) -> int:
        """Bytes to download, each file once."""
        return sum(self._downloads)

    @property
    def disk_bytes(self) -> int:
        """Bytes that downloads take of the disk at most: all; or of models that are deleted again the two largest, one
        that is scored and the next one."""
        return sum(sorted(self._downloads)[-2:]) if self.evict else self.download_bytes

    @property
    def _downloads(self) -> list[int]:
        left = [model for model in self.models if model.is_left]
        # Adapters of one base share its files, beside which theirs are small.
        return list({_content(model): model.download_bytes or 0 for model in left}.values())

    @property
    def seconds(self) -> float | None:
        """Estimated time of scoring all; None where that of some model is not known."""
        times = [model.seconds for model in self.models if model.is_left]
        return None if None in times else sum(time for time in times if time is not None)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {
            "models": [vars(model) for model in self.models],
            "devices": {name: vars(device) for name, device in self.devices.items()},
            "download_bytes": self.download_bytes,
            "disk_bytes": self.disk_bytes,
            "disk_free": self.disk_free,
            "seconds": self.seconds,
            "problems": len(self.problems),
        }


def plan(
    registry: Contents,
    models: Sequence[Entry],
    *,
    progress: Callable[[int, int], None] | None = None,
    evict: bool = False,
    **options: Any,
) -> Plan:
    """Find out what adding models will take, and what stands against it; nothing is loaded or written.

    Of a model on the Hub only its config, the index of its weights and some headers are fetched.

    Parameters
    ----------
    registry : Contents
    models : sequence of str or mapping
        As for `llreg.add.add.add`.
    progress : callable, optional
        Called with the models done and their number.
    evict : bool
        As for `llreg.add.add.add`.
    **options
        See `llreg.add.request.Options`.

    Returns
    -------
    Plan
        A model is a problem where it is missing, gated or unsupported, or asks for more memory than its device has, or
        for more disk than the models before it leave; with `evict`, than there is.

    Raises
    ------
    InputError
        If the options do not fit together.
    """
    requests = read_requests(registry, models, options)
    check_texts(registry, requests)
    planner = _Planner(registry, evict)
    planned = []
    for k, request in enumerate(requests):
        planned.append(planner.plan(request))
        if progress:
            progress(k + 1, len(requests))
    return Plan(planned, list(models), planner.devices, planner.disk_free, evict)


class _Planner:
    """Plans model after model; what one of them downloads the next ones cannot have of the disk."""

    def __init__(self, registry: Contents, evict: bool) -> None:
        self.registry, self._evict = registry, evict
        self.devices: dict[str, llreg_extract.DeviceMemory] = {}
        self.records = registry.records()
        self.bytes_a_token = _bytes_a_token(self.records, float(registry.text_index.bytes_per_text.sum()))
        self.disk_free = _disk_free()
        self._claimed: dict[tuple[str, str, str | None], int] = {}  # source -> bytes to download

    def plan(self, request: Request) -> PlannedModel:
        found = PlannedModel(request.model, "problem")
        try:
            pinned = pin(self.registry, request)
            found = _described(request, pinned)
            record = find_present(self.registry, pinned.identity, request.options)
            if record is not None:
                return replace(found, state="present", row_id=record.row_id)
            return self._to_do(found, request, pinned)
        except (ModelError, InputError) as error:
            return replace(found, state="problem", problem=str(error))

    def _to_do(self, found: PlannedModel, request: Request, pinned: Pinned) -> PlannedModel:
        needs = llreg_extract.needs(
            pinned.source, dtype=pinned.dtype, trust_remote_code=request.options.trust_remote_code
        )
        state, left = self._left(request, pinned)
        tokens = round(float(self.registry.text_index.bytes_per_text[left].sum()) / self.bytes_a_token)
        device = self._device(pinned.device)
        found = replace(
            found,
            state=state,
            download_bytes=needs.download_bytes,
            memory_bytes=needs.memory_bytes,
            texts=len(left),
            tokens=tokens,
            seconds=_seconds(self.records, device, found, tokens),
        )
        problem = _too_large(found, device) or self._disk_problem(found, pinned)
        return replace(found, state="problem", problem=problem) if problem else found

    def _device(self, name: str) -> llreg_extract.DeviceMemory:
        if name not in self.devices:
            self.devices[name] = llreg_extract.device_memory(name)
        return self.devices[name]

    def _left(self, request: Request, pinned: Pinned) -> tuple[State, list[int]]:
        """Texts still to be scored: without those of an interrupted run, or else of a row that lacks texts."""
        import numpy as np

        wanted = request.subset["texts"] if request.subset else range(self.registry.num_texts)
        there = self.registry.replicates(pinned.identity) if request.options.overwrite == "only-missing" else []
        state: State = "incomplete" if there else "to do"
        done = set(journal_of(self.registry, pinned, request.options).read()["text"].tolist())
        if done:
            state = "unfinished"
        elif there:
            done = set(np.flatnonzero(~np.isnan(self.registry.row(there[-1].row_id).log_likelihood)).tolist())
        return state, [text for text in wanted if text not in done]

    def _disk_problem(self, found: PlannedModel, pinned: Pinned) -> str | None:
        """Claim the disk that a download takes, or say that it is not there."""
        source = pinned.source
        key = source.location, source.revision, source.file or source.subfolder
        asked, claimed = found.download_bytes or 0, sum(self._claimed.values())
        if key in self._claimed or asked == 0:
            return None
        if claimed + asked <= self.disk_free:
            if not self._evict:  # else the disk is given back when the model is done
                self._claimed[key] = asked
            return None
        before = f", {shown_bytes(claimed)} of them for the models before it" if claimed else ""
        return (
            f"its download of {shown_bytes(asked)} does not fit on the disk: {shown_bytes(self.disk_free)} are free in "
            f"{llreg_extract.cache_folder()}{before}; free some space, or move HF_HOME"
        )


def _content(model: PlannedModel) -> tuple[str | None, ...]:
    """What tells files to download apart."""
    if model.base is not None:
        return model.base, model.revision, model.file
    return model.name, model.revision, model.file or model.subfolder


def _described(request: Request, pinned: Pinned) -> PlannedModel:
    source = pinned.source
    return PlannedModel(
        request.model,
        "to do",
        name=source.name,
        base=source.adapter.base if source.adapter else None,
        revision=source.revision,
        file=source.file,
        subfolder=pinned.identity.subfolder,
        dtype=pinned.dtype,
        quantization=source.quantization,
        device=pinned.device,
        num_parameters=source.declared["num_parameters"],
    )


def _too_large(found: PlannedModel, device: llreg_extract.DeviceMemory) -> str | None:
    if found.memory_bytes is None or device.num_bytes is None or found.memory_bytes <= device.num_bytes:
        return None
    has = "has" if device.type == "cuda" else "has left"
    width = 4 if found.dtype == "float32" else 2
    advice = "use a larger device"
    if width == 4 and found.memory_bytes / 2 <= device.num_bytes:
        advice = "--dtype bfloat16 takes half of it"
    elif found.quantization is None and found.memory_bytes / width <= device.num_bytes:
        advice = f"--quantize int8 takes about {'half' if width == 2 else 'a quarter'} of it"
    return (
        f"it needs about {shown_bytes(found.memory_bytes)} of memory in {found.dtype} and {device.name} {has} "
        f"{shown_bytes(device.num_bytes)}: {advice}"
    )


def _bytes_a_token(records: Sequence[RowRecord], num_bytes: float) -> float:
    """Bytes of text to a token: the median of the rows that scored all the texts."""
    left_out = ("over_context", "unscored", "non_finite")
    found = [
        num_bytes / record.provenance["tokens"]
        for record in records
        if record.identity.subset is None
        and record.provenance["tokens"]
        and not any(record.provenance.get(name) for name in left_out)
    ]
    return statistics.median(found) if found else BYTES_A_TOKEN


def _seconds(
    records: Sequence[RowRecord], device: llreg_extract.DeviceMemory, found: PlannedModel, tokens: int
) -> float | None:
    """Time to score tokens: a token costs time in proportion to the parameters.

    The cost is the median of the rows made on a device of that name, of the same dtype where there are such: those of
    the nearest parameter counts, for small models use a device less well.
    """
    parameters = found.num_parameters
    made = [
        record for record in records if _was_timed(record) and record.provenance["device"].get("name") == device.name
    ]
    made = [record for record in made if record.identity.weight_dtype == found.dtype] or made
    if not parameters or not made:
        return None
    made.sort(key=lambda record: abs(math.log(record.declared["num_parameters"] / parameters)))
    costs = [
        record.provenance["seconds"] / record.provenance["tokens"] / record.declared["num_parameters"]
        for record in made[:_NEAREST]
    ]
    return float(statistics.median(costs)) * parameters * tokens


def _was_timed(record: RowRecord) -> bool:
    provenance = record.provenance
    return bool(
        isinstance(provenance.get("device"), Mapping)
        and provenance.get("seconds")
        and provenance.get("tokens")
        and record.num_parameters
    )


def _disk_free() -> int:
    """Bytes free where the Hub's client keeps its downloads, which may not be there yet."""
    folder: Path = llreg_extract.cache_folder()
    try:
        return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    except (OSError, StopIteration) as error:
        raise InputError(f"{folder} cannot be looked at: {error}") from error
