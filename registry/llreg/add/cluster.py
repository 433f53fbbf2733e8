"""Rows computed by Dask workers: processes of this machine, or those of somebody's cluster.

A model is two tasks: `worker.prepare`, which may run ahead, and `worker.score`, which takes the resource GPU and returns the row. Dask
places them and moves the data. Only this side writes to the registry: journal entries reach it as Dask events while a model is scored,
so that it goes on from there if its worker dies, or the run is interrupted.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import llreg_extract
from llreg import settings
from llreg.add import worker
from llreg.add.job import Job
from llreg.add.journal import Entries
from llreg.add.prefetch import Evictions
from llreg.add.reporter import AddResult, Reporter
from llreg.add.request import Request
from llreg.add.task import BusyError, Task
from llreg.dask_client import SLOT, connect, slots_of, start_workers, workers_of
from llreg_schemas.errors import ClusterError, InputError, LlregError, ModelError, NoRoomError

if TYPE_CHECKING:
    from distributed import Client, Future

_ATTEMPTS = 2  # at a model whose worker dies while it is scored
# At a model that was only waiting on workers that died: another one may have ended them.
_UNBEGUN_ATTEMPTS = 5 * _ATTEMPTS
_POLL_SECONDS = 1.0  # between looks at which workers there are
_PATIENCE_SECONDS = 10.0  # for a worker that scores, where there are others


@dataclass(frozen=True)
class Workers:
    """Where rows are computed.

    Attributes
    ----------
    gpus : int
        GPUs of a worker, or of this machine where it has one each.
    remote : bool
        Whether the workers are somebody else's, and may be on other machines.
    connect : callable
        Gives the context in which there is a client; workers of this machine are started by it.
    """

    gpus: int
    remote: bool
    connect: Callable[[], AbstractContextManager[Client]]


@contextmanager
def find_workers(
    cluster: str | None, count: int | Literal["auto"] | None, requests: Sequence[Request], report: Reporter
) -> Iterator[Workers]:
    """Find out where rows are to be computed; workers of this machine are not started yet.

    Parameters
    ----------
    cluster, count
        As `cluster` and `workers` of `Registry.add`.
    requests : sequence of Request
    report : Reporter

    Raises
    ------
    InputError, MissingExtraError, ClusterError
        As `Registry.add`.
    """
    for device in (request.options.device for request in requests):
        if ":" in device:
            raise InputError(f"device {device}: a worker has one GPU, and it is llreg that deals them out: give cuda")
    if cluster is None or cluster == "local":
        yield _workers_here("auto" if count is None else count, requests)
        return
    if count is not None:
        raise InputError(f"workers are processes of this machine, and {cluster} has its own: give one of the two")
    with connect(cluster) as client:
        slots = _wait_for_slots(client, cluster, report)
        yield Workers(_check_workers(client, cluster, list(slots)), True, lambda: nullcontext(client))


def _workers_here(count: int | Literal["auto"], requests: Sequence[Request]) -> Workers:
    """Processes of this machine, with a GPU each, or each with its share of the cores."""
    gpus = llreg_extract.count_gpus() if any(request.options.device != "cpu" for request in requests) else 0
    count = max(1, gpus) if count == "auto" else count
    if not isinstance(count, int) or count < 1:
        raise InputError(f"workers: expected a number of at least 1, or auto; got {count!r}")
    if gpus and count > gpus:
        raise InputError(f"{count} workers were asked for and torch sees {gpus} GPUs here: one worker each, at most")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if gpus:  # each worker sees one GPU
        names = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))).split(",")
        threads = str(max(1, len(cores) // count))
        environments = [{"CUDA_VISIBLE_DEVICES": name.strip(), "OMP_NUM_THREADS": threads} for name in names[:count]]
    else:  # each worker has its own cores, or all share them if they are fewer than workers
        shares = [cores[k::count] or [cores[k % len(cores)]] for k in range(count)]
        environments = [
            {settings.WORKER_CPUS: ",".join(map(str, share)), "OMP_NUM_THREADS": str(len(share))} for share in shares
        ]
    return Workers(gpus, False, partial(start_workers, environments, "llreg.add.worker"))


def _wait_for_slots(client: Client, cluster: str, report: Reporter) -> dict[str, int]:
    """Models that each worker scores at once, by its address, as soon as there is one that scores."""
    deadline, noted = None, False
    while not (slots := slots_of(client)):
        if workers_of(client):
            deadline = deadline or time.monotonic() + _PATIENCE_SECONDS
            if time.monotonic() > deadline:
                raise ClusterError(
                    f'no worker of {cluster} offers the resource {SLOT}: start them with dask worker --resources "{SLOT}=1"'
                )
        elif not noted:
            report.note(f"{cluster} has no worker yet; waiting for one")
            noted = True
        time.sleep(0.2)
    return slots


def _check_workers(client: Client, cluster: str, addresses: Sequence[str]) -> int:
    """Refuse workers that lack something or have other versions; return 1 if they have a GPU, 0 if not.

    All must agree on that, since a row's dtype depends on it.
    """

    def probe() -> dict[str, Any]:  # travels as its code, so that it runs also where llreg is not installed
        try:
            import llreg_extract
            from llreg.add.worker import versions

            return {"versions": versions(), "gpus": llreg_extract.count_gpus()}
        except ImportError as error:  # llreg, or what its extras bring
            return {"lacks": str(getattr(error, "name", None) or error).partition(".")[0], "gpus": 0}

    answers = client.run(probe, workers=addresses)
    for address, answer in answers.items():
        if "lacks" in answer:
            raise ClusterError(
                f'worker {address} has no {answer["lacks"]}: install there what is here, pip install "llreg[extract,cluster]"'
            )
        worker.check_versions(f"worker {address}", answer["versions"], worker.versions())
    gpus = {min(1, int(answer["gpus"])) for answer in answers.values()}
    if len(gpus) > 1:
        raise ClusterError(
            f"some workers of {cluster} have a GPU and others have none: offer the resource {SLOT} on workers of one kind"
        )
    return gpus.pop()


@dataclass
class _Submission:
    """A model that is with the workers."""

    task: Task
    job: Job
    report: Reporter
    future: Future
    stack: ExitStack  # its reservation and, once it is scored, its journal
    finished_before: int  # models of the run that were finished when it was submitted
    has_begun: bool = False
    has_journal: bool = False


class ClusterScoring:
    """Models of one run, scored by Dask workers.

    Parameters
    ----------
    workers : Workers
    tasks : sequence of Task
        In the order in which they are to be scored.
    evictions : Evictions or None
        None to delete nothing.
    report : Reporter
    """

    def __init__(self, workers: Workers, tasks: Sequence[Task], evictions: Evictions | None, report: Reporter) -> None:
        self._workers, self._evictions, self._report = workers, evictions, report
        self._waiting = deque(tasks)
        self._postponed: list[Task] = []  # found no room on the disk: tried again when another one is finished
        self._running: dict[str, _Submission] = {}  # by the key of the Dask task
        self._begun, self._lost = Counter[int](), Counter[int]()  # scorings, and deaths of workers, by id of the task
        self._finished = 0
        # What workers tell, and the futures of models that are done: one queue, so that both are taken in this thread.
        self._inbox: SimpleQueue[Mapping[str, Any] | Future] = SimpleQueue()
        self._topic = f"llreg-{secrets.token_hex(8)}"
        self._texts: dict[str | None, Future] = {}  # by the id of the text subset
        self._noted_no_worker = False

    def run(self) -> Iterator[tuple[Task, AddResult]]:
        """Score all models; yields each one when it is done.

        Raises
        ------
        ClusterError
            If the scheduler is lost, or a worker lacks what it needs.
        StorageError
            If the registry cannot be written.
        """
        if not self._waiting:
            return
        with self._workers.connect() as self._client:
            try:
                self._client.subscribe_topic(self._topic, lambda event: self._inbox.put(event[1]))
                while self._waiting or self._running:
                    yield from self._submit_waiting()
                    yield from self._receive()
            finally:  # of an interrupted run, let go of what is still with the workers: they stop when they notice
                self._client.cancel([submission.future for submission in self._running.values()], force=True)
                for submission in self._running.values():
                    submission.stack.close()

    # To the workers

    def _submit_waiting(self) -> Iterator[tuple[Task, AddResult]]:
        """Give the workers a model a slot, and as many ahead while enough are left to keep all busy to the end."""
        slots = slots_of(self._client)
        num_slots, busy = sum(slots.values()), deque[Task]()
        while self._waiting:
            ahead = num_slots if len(self._waiting) >= num_slots else 0
            if len(self._running) >= max(1, num_slots + ahead):
                break
            task = self._waiting.popleft()
            try:
                yield from self._submit(task, slots, wait=False)
            except BusyError:  # another llreg is at it, or this one: the model stands in the list twice
                busy.append(task)
        if busy and not self._running:  # nothing else is left to do meanwhile
            yield from self._submit(busy.popleft(), slots, wait=True)
        self._waiting.extend(busy)

    def _submit(self, task: Task, slots: Mapping[str, int], *, wait: bool) -> Iterator[tuple[Task, AddResult]]:
        """Give a model to the workers, unless there is nothing to do for it."""
        with ExitStack() as stack:
            try:
                stack.enter_context(task.reserved(self._report, wait=wait))
                job = task.begin()
            except (ModelError, InputError) as error:
                job = task.failed(error)
            if isinstance(job, AddResult):
                yield self._finish(task, job, self._report)
                return
            # The texts are one Dask task for all models; preparing and scoring take its result.
            client, texts, job_without_texts = self._client, self._send_texts(job), replace(job, texts=(), cuts=None)
            encoded = None
            if not self._lost[id(task)]:  # else preparing it may be what ended its worker
                preferred = {"workers": list(slots), "allow_other_workers": True} if slots else {}
                encoded = client.submit(worker.prepare, job_without_texts, texts, self._topic, pure=False, **preferred)
            # On other machines the files of a local model may be others, under the same path.
            stamps = worker.file_stamps(job.source) if self._workers.remote else None
            key = f"llreg-score-{secrets.token_hex(8)}"
            arguments = (job_without_texts, texts, encoded, self._topic, worker.versions(), stamps)
            future = client.submit(worker.score, *arguments, key=key, resources={SLOT: 1})
            self._running[key] = _Submission(task, job, self._report.apart(), future, stack.pop_all(), self._finished)
            future.add_done_callback(self._inbox.put)

    def _send_texts(self, job: Job) -> Future:
        """The texts, sent once; as a task's result and not as data, so that a worker that dies does not take them along."""
        import dask.config

        subset = job.identity.subset
        if subset not in self._texts or self._texts[subset].status in ("error", "cancelled", "lost"):
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GiB"}):
                self._texts[subset] = self._client.submit(worker.hold, (job.texts, job.cuts), pure=False)
        return self._texts[subset]

    # From the workers

    def _receive(self) -> Iterator[tuple[Task, AddResult]]:
        """Pass on what workers tell until a model is done, or nothing came for a while."""
        from distributed import Future

        while self._running:
            try:
                message = self._inbox.get(timeout=_POLL_SECONDS)
            except Empty:  # a quiet moment: look whether the scheduler and the workers are still there
                if self._client.status != "running":
                    _raise_lost()
                has_worker = bool(slots_of(self._client))
                if not has_worker and not self._noted_no_worker:
                    self._report.note("no worker is left; waiting for one")
                self._noted_no_worker = not has_worker
                return
            if isinstance(message, Future):
                yield from self._take(message)
                return
            submission = self._running.get(message["key"])
            if submission is not None:  # else of an attempt that is over
                self._pass_on(submission, message)

    def _pass_on(self, submission: _Submission, message: Mapping[str, Any]) -> None:
        """Report what a worker tells of a model, and keep what it has scored."""
        task, report = submission.task, submission.report
        match message["what"]:
            case "note":
                report.note(message["message"])
            case "begin":
                submission.has_begun = True
                self._begun[id(task)] += 1
                report.begin(task.model)
            case "start":
                if not submission.has_journal:  # Dask itself may have begun again, on another worker
                    submission.stack.enter_context(task.journal.writing(submission.job.kept))
                    submission.has_journal = True
                report.start(task.model, message["tokens"], message["done"])
            case "scored":
                task.journal.write(Entries.from_bytes(message["entries"]))
                report.advance(message["tokens"])

    def _take(self, future: Future) -> Iterator[tuple[Task, AddResult]]:
        """What became of a model whose Dask task is done; nothing if it is to be tried again."""
        from distributed.scheduler import KilledWorker

        if future.status not in ("finished", "error"):
            _raise_lost()
        submission = self._running.pop(future.key)
        task = submission.task
        with submission.stack:
            try:
                computed = future.result()
                if isinstance(computed, (LlregError, worker.StoppedError)):
                    raise computed
                result = task.complete(computed)
            except KilledWorker:
                if self._may_try_again(submission):
                    self._waiting.appendleft(task)
                    return
                message = (
                    f"the worker that scored it died {max(self._begun[id(task)], 1)} times: it may need more memory than there "
                    "is (--dtype bfloat16 takes half of float32), or crash a library"
                )
                result = task.failed(ModelError(message))
            except worker.StoppedError:  # Dask had taken it back, and then given it out again
                self._waiting.appendleft(task)
                return
            except ModuleNotFoundError as error:
                raise ClusterError(f"a worker lacks {error.name}: install there what is here") from error
            except (ModelError, InputError) as error:
                if isinstance(error, NoRoomError) and self._evictions is not None:
                    if self._finished > submission.finished_before:  # one was deleted meanwhile
                        self._waiting.append(task)
                        return
                    if self._running:  # one that is running will be deleted, and then there may be room
                        self._postponed.append(task)
                        return
                result = task.failed(error)
        yield self._finish(task, result, submission.report)

    def _may_try_again(self, submission: _Submission) -> bool:
        """Whether a model whose worker died has an attempt left; it goes on from its journal."""
        # Dask fails all tasks of a worker that dies, also those that only waited there: these are not blamed soon.
        task = submission.task
        self._lost[id(task)] += 1
        if self._begun[id(task)] >= _ATTEMPTS or self._lost[id(task)] >= _UNBEGUN_ATTEMPTS:
            return False
        if submission.has_begun:
            self._report.note(f"{task.model}: its worker died; it goes on elsewhere")
        return True

    def _finish(self, task: Task, result: AddResult, report: Reporter) -> tuple[Task, AddResult]:
        report.finish(result)
        self._finished += 1
        self._waiting.extend(self._postponed)
        self._postponed.clear()
        if self._evictions is not None:
            if self._workers.remote:  # each worker has a cache of its own, and knows what it downloaded for this run
                revisions, addresses = self._evictions.release(task.source), list(slots_of(self._client))
                if revisions:
                    deleted = self._client.run(
                        worker.evict, self._topic, revisions, workers=addresses, on_error="ignore"
                    )
                    if not all(deleted.get(address) for address in addresses):
                        report.note("not all models were deleted from the workers' caches")
            else:
                self._evictions.delete(task.source, report)
        return task, result


def _raise_lost() -> NoReturn:
    raise ClusterError(
        "the Dask scheduler is lost; the rows that it had computed are written, and the same command goes on from there"
    )
