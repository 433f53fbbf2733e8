"""What an `add` will take: checked for every model before anything of it is downloaded or loaded."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import llreg_extract
from llreg.add.reporter import AddResult
from llreg.add.request import Entry, Request, check_texts, read_requests
from llreg.add.task import Task
from llreg.printable import shown_bytes
from llreg.store.rowcheck import REASONS
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
        """What to give to `Registry.add`: the entries without a problem."""
        return [entry for entry, model in zip(self.entries, self.models, strict=True) if model.problem is None]

    def results(self, added: Sequence[AddResult]) -> list[AddResult]:
        """Results of all models in the order given: those of `good`, and the problems as "failed"."""
        others = iter(added)
        return [
            next(others) if model.problem is None else AddResult(model.model, "failed", None, model.problem)
            for model in self.models
        ]

    @property
    def left(self) -> list[PlannedModel]:
        """The models that will be scored."""
        return [model for model in self.models if model.is_left]

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
        """Bytes of each download: models of the same files share one, and so do adapters of one base, theirs being small."""
        downloads: dict[tuple[str | None, ...], int] = {}
        for model in self.left:
            files = (model.name, model.file or model.subfolder) if model.base is None else (model.base, model.file)
            downloads[*files, model.revision] = model.download_bytes or 0
        return list(downloads.values())

    @property
    def seconds(self) -> float | None:
        """Estimated time of scoring all; None where that of some model is not known."""
        seconds = [model.seconds for model in self.left]
        return None if None in seconds else sum(filter(None, seconds))

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

    Behind `Registry.plan`, which describes parameters, result and errors.
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
        folder: Path = llreg_extract.cache_folder()  # where downloads go, which may not be there yet
        try:
            self.disk_free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
        except (OSError, StopIteration) as error:
            raise InputError(f"{folder} cannot be looked at: {error}") from error
        self._claimed: dict[tuple[str, str, str | None], int] = {}  # bytes to download, by their source

    def plan(self, request: Request) -> PlannedModel:
        """What adding one model will take."""
        model = PlannedModel(request.model, "problem")
        try:
            task = Task(self.registry, request)
            source = task.source
            model = replace(
                model,
                name=source.name,
                base=source.adapter.base if source.adapter else None,
                revision=source.revision,
                file=source.file,
                subfolder=task.identity.subfolder,
                dtype=task.identity.weight_dtype,
                quantization=source.quantization,
                device=task.device,
                num_parameters=source.declared["num_parameters"],
            )
            record = task.present_record()
            if record is not None:
                return replace(model, state="present", row_id=record.row_id)
            return self._measure(model, task)
        except (ModelError, InputError) as error:
            return replace(model, problem=str(error))

    def _measure(self, model: PlannedModel, task: Task) -> PlannedModel:
        """A model that is to be scored, with what that takes; a problem if it is more than there is."""
        options, registry = task.request.options, self.registry
        needs = llreg_extract.needs(
            task.source, dtype=task.identity.weight_dtype, trust_remote_code=options.trust_remote_code
        )
        # Texts still to be scored: without those of an interrupted run, or else of a row that lacks texts.
        state: State = "to do"
        scored = set(task.journal.read()["text"].tolist())
        records = registry.replicates(task.identity) if options.overwrite == "only-missing" else []
        if scored:
            state = "unfinished"
        elif records:
            state = "incomplete"
            scored = set(np.flatnonzero(~np.isnan(registry.row(records[-1].row_id).log_likelihood)).tolist())
        in_scope = task.request.subset["texts"] if task.request.subset else range(registry.num_texts)
        texts = [text for text in in_scope if text not in scored]
        tokens = round(float(registry.text_index.bytes_per_text[texts].sum()) / self.bytes_a_token)
        if task.device not in self.devices:  # asked once: all models are checked against the same free memory
            self.devices[task.device] = llreg_extract.device_memory(task.device)
        device = self.devices[task.device]
        model = replace(
            model,
            download_bytes=needs.download_bytes,
            memory_bytes=needs.memory_bytes,
            texts=len(texts),
            tokens=tokens,
            seconds=_seconds(self.records, device, model, tokens),
        )
        problem = _memory_problem(model, device) or self._disk_problem(needs.download_bytes or 0, task.source)
        return replace(model, problem=problem) if problem else replace(model, state=state)

    def _disk_problem(self, num_bytes: int, source: llreg_extract.Source) -> str | None:
        """Claim the disk that a download takes, or say that it is not there."""
        key, claimed = (source.location, source.revision, source.file or source.subfolder), sum(self._claimed.values())
        if key in self._claimed or num_bytes == 0:
            return None
        if claimed + num_bytes <= self.disk_free:
            if not self._evict:  # else the disk is given back when the model is done
                self._claimed[key] = num_bytes
            return None
        others = f", {shown_bytes(claimed)} of them for the models before it" if claimed else ""
        return (
            f"its download of {shown_bytes(num_bytes)} does not fit on the disk: {shown_bytes(self.disk_free)} are free in "
            f"{llreg_extract.cache_folder()}{others}; free some space, or move HF_HOME"
        )


def _memory_problem(model: PlannedModel, device: llreg_extract.DeviceMemory) -> str | None:
    """That a model is too large for its device, and what takes less."""
    if model.memory_bytes is None or device.num_bytes is None or model.memory_bytes <= device.num_bytes:
        return None
    # Of what helps, the change that costs the least accuracy.
    bytes_a_weight = 4 if model.dtype == "float32" else 2
    advice = "use a larger device"
    if bytes_a_weight == 4 and model.memory_bytes / 2 <= device.num_bytes:
        advice = "--dtype bfloat16 takes half of it"
    elif model.quantization is None and model.memory_bytes / bytes_a_weight <= device.num_bytes:
        advice = f"--quantize int8 takes about {'half' if bytes_a_weight == 2 else 'a quarter'} of it"
    return (
        f"it needs about {shown_bytes(model.memory_bytes)} of memory in {model.dtype} and {device.name} "
        f"{'has' if device.type == 'cuda' else 'has left'} {shown_bytes(device.num_bytes)}: {advice}"
    )


def _bytes_a_token(records: Sequence[RowRecord], num_bytes: float) -> float:
    """Bytes of text to a token: the median of the rows that scored all the texts."""
    ratios = [
        num_bytes / record.provenance["tokens"]
        for record in records
        if record.identity.subset is None
        and record.provenance["tokens"]
        and not any(record.provenance.get(reason) for reason in REASONS)
    ]
    return statistics.median(ratios) if ratios else BYTES_A_TOKEN


def _seconds(
    records: Sequence[RowRecord], device: llreg_extract.DeviceMemory, model: PlannedModel, tokens: int
) -> float | None:
    """Time to score tokens: a token costs time in proportion to the parameters.

    The cost is the median of the rows made on a device of that name, of the same dtype where there are such: those of
    the nearest parameter counts, for small models use a device less well.
    """
    timed = [
        record
        for record in records
        if isinstance(record.provenance.get("device"), Mapping)
        and record.provenance["device"].get("name") == device.name
        and all(record.provenance.get(field) for field in ("seconds", "tokens"))
        and record.num_parameters
    ]
    timed = [record for record in timed if record.identity.weight_dtype == model.dtype] or timed
    parameters = model.num_parameters
    if not parameters or not timed:
        return None
    # Nearest on a logarithmic scale: twice as large is as far as half as large.
    timed.sort(key=lambda record: abs(math.log(record.declared["num_parameters"] / parameters)))
    costs = [  # seconds for a token and a parameter
        record.provenance["seconds"] / record.provenance["tokens"] / record.declared["num_parameters"]
        for record in timed[:_NEAREST]
    ]
    return float(statistics.median(costs)) * parameters * tokens
