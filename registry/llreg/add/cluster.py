"""Rows computed by workers: models dealt out, what is scored kept as it comes, rows written here."""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn

from llreg.add import worker
from llreg.add.evictions import Evictions
from llreg.add.job import Job
from llreg.add.journal import read_entries
from llreg.add.places import Place
from llreg.add.reporter import AddResult, Reporter
from llreg.add.task import Addition
from llreg.dask_client import SLOT, slots_of
from llreg_schemas.errors import ClusterError, InputError, LlregError, ModelError, NoRoomError

if TYPE_CHECKING:
    from distributed import Future

_ATTEMPTS = 2  # of a model whose worker dies
_LOSSES = 10  # of a model whose worker dies before it says that it has begun
_LOOK_SECONDS = 1.0  # between looks at which workers there are
_EVICT_SECONDS = 60.0

Finished = tuple[Addition, AddResult]


@dataclass
class _Flight:
    """A model that is with the workers."""

    addition: Addition
    job: Job
    report: Reporter
    stack: ExitStack  # its reservation and, once it is scored, its journal
    future: Future
    began: bool = False
    keeps: bool = False

    def keep(self) -> None:
        """Open the journal, unless an earlier attempt did."""
        if not self.keeps:
            self.stack.enter_context(self.addition.journal.writing(self.job.kept))
            self.keeps = True


class Crew:
    """Models and the workers that score them.

    Dask places tasks and starts them again elsewhere when a worker dies; what is here is which models are with it: one a
    slot, and as many that are made ready meanwhile.

    Parameters
    ----------
    place : Place
    additions : sequence of Addition
        In the order in which they are to be scored.
    evictions : Evictions or None
        None to delete nothing.
    report : Reporter
    """

    def __init__(
        self, place: Place, additions: Sequence[Addition], evictions: Evictions | None, report: Reporter
    ) -> None:
        self._place, self._evictions, self._report = place, evictions, report
        self._waiting, self._postponed = deque(additions), deque[Addition]()
        self._flights: dict[str, _Flight] = {}
        self._finished: deque[Finished] = deque()
        self._inbox: SimpleQueue[Mapping[str, Any]] = SimpleQueue()
        self._begun, self._lost = Counter[int](), Counter[int]()  # by id of the addition
        self._texts: dict[str | None, Future] = {}
        self._brought: defaultdict[Any, set[str]] = defaultdict(set)  # revision -> workers that downloaded it
        self._deleting: list[Future] = []
        self._topic = f"llreg-{secrets.token_hex(8)}"
        self._slots: dict[str, int] = {}
        self._deserted = False  # no worker is left, and that was told

    def run(self) -> Iterator[Finished]:
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
        with self._place.open() as self._client, ExitStack() as stack:
            stack.callback(self._abandon)
            self._client.subscribe_topic(self._topic, lambda event: self._inbox.put(event[1]))
            while self._waiting or self._postponed or self._flights:
                self._deal_out()
                yield from self._hand_over()
                if self._flights:
                    self._receive()
                yield from self._hand_over()
            self._wait_for_deletions()

    def _hand_over(self) -> Iterator[Finished]:
        while self._finished:
            yield self._finished.popleft()

    def _abandon(self) -> None:
        """Let go of what is still with the workers: they stop when they notice."""
        self._client.cancel([flight.future for flight in self._flights.values()], force=True)
        for flight in self._flights.values():
            flight.stack.close()

    # Dealing out

    def _deal_out(self) -> None:
        while self._waiting and len(self._flights) < self._limit():
            self._launch(self._waiting.popleft(), patient=False)
        if not self._flights and not self._waiting and self._postponed:
            self._launch(self._postponed.popleft(), patient=True)

    def _limit(self) -> int:
        """One model a slot; and as many ahead, while enough are left to keep all workers busy to the end."""
        self._slots = self._slots or slots_of(self._client)
        slots = sum(self._slots.values())
        return max(1, slots + (slots if len(self._waiting) >= slots else 0))

    def _launch(self, addition: Addition, *, patient: bool) -> None:
        """Give a model to the workers, unless there is nothing to do for it, or somebody else is at it."""
        with ExitStack() as stack:
            try:
                stack.enter_context(addition.reserved(lambda: self._wait_for(addition) if patient else _give_up()))
                job = addition.begin()
            except _BusyError:
                self._postponed.append(addition)
            except (ModelError, InputError) as error:
                self._finish(addition, addition.failed(error), self._report)
            else:
                if isinstance(job, AddResult):
                    self._finish(addition, job, self._report)
                else:
                    self._submit(addition, job, stack.pop_all())

    def _wait_for(self, addition: Addition) -> None:
        self._report.note(f"{addition.source.name}: another llreg is adding it; waiting for that to finish")

    def _submit(self, addition: Addition, job: Job, stack: ExitStack) -> None:
        client, key = self._client, f"llreg-score-{secrets.token_hex(8)}"
        lean, texts = replace(job, texts=()), self._texts_of(job)
        seen = worker.look(job.source) if self._place.remote else None
        prepared = self._prepare(addition, lean, texts)
        future = client.submit(
            worker.score, lean, texts, prepared, self._topic, worker.versions(), seen, key=key, resources={SLOT: 1}
        )
        self._flights[key] = _Flight(addition, job, self._report.apart(), stack, future)
        future.add_done_callback(lambda _: self._inbox.put({"key": key, "what": "done"}))

    def _prepare(self, addition: Addition, lean: Job, texts: Future) -> Future | worker.Prepared:
        """Have a model made ready before its turn; not if that may be what ended its worker."""
        if self._lost[id(addition)]:
            return worker.Prepared(None, [])
        where = {"workers": list(self._slots), "allow_other_workers": True} if self._slots else {}
        return self._client.submit(worker.prepare, lean, texts, pure=False, **where)

    def _texts_of(self, job: Job) -> Future:
        """The texts, sent once; as a task's result and not as data, so that a worker that dies does not take them along."""
        import dask.config

        subset = job.identity.subset
        if subset not in self._texts or self._texts[subset].status in ("error", "cancelled", "lost"):
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GiB"}):
                self._texts[subset] = self._client.submit(worker.hold, job.texts, pure=False)
        return self._texts[subset]

    # What comes back

    def _receive(self) -> None:
        try:
            message = self._inbox.get(timeout=_LOOK_SECONDS)
        except Empty:
            self._slots = slots_of(self._client)
            if self._client.status != "running":
                _lost()
            if self._slots:
                self._deserted = False
            elif not self._deserted:
                self._deserted = True
                self._report.note("no worker is left; waiting for one")
            return
        flight = self._flights.get(message["key"])
        if flight is None:  # of an attempt that is over
            return
        match message["what"]:
            case "note":
                flight.report.note(message["message"])
            case "begin":
                flight.began = True
                self._begun[id(flight.addition)] += 1
                flight.report.begin(flight.addition.model)
            case "start":
                flight.keep()
                flight.report.start(flight.addition.model, message["tokens"], message["done"])
            case "scored":
                flight.addition.journal.write(read_entries(message["entries"]))
                flight.report.advance(message["tokens"])
            case "done":
                self._land(self._flights.pop(message["key"]))

    def _land(self, flight: _Flight) -> None:
        self._slots = {}
        with flight.stack:
            outcome = self._outcome(flight)
            if outcome is None:
                self._waiting.appendleft(flight.addition)
            elif isinstance(outcome.error, NoRoomError) and self._may_get_room():
                self._postponed.append(flight.addition)
                return
            else:
                self._settle(flight, outcome)
        self._waiting.extend(self._postponed)
        self._postponed.clear()

    def _may_get_room(self) -> bool:
        """Whether others that are done with, or will be, leave room on the disk for one that found none."""
        return self._evictions is not None and (bool(self._flights) or self._wait_for_deletions())

    def _outcome(self, flight: _Flight) -> worker.Outcome | None:
        """What a task gave; None if it is to be tried again, since its worker died or stopped too early."""
        from distributed.scheduler import KilledWorker

        if flight.future.status == "finished":
            outcome: worker.Outcome = flight.future.result()
            return outcome if outcome.computed or outcome.error else None
        if flight.future.status != "error":
            _lost()
        error = flight.future.exception()
        if isinstance(error, KilledWorker):
            return self._after_death(flight)
        if isinstance(error, ModuleNotFoundError):
            raise ClusterError(f"a worker lacks {error.name}: install there what is here") from error
        raise error

    def _after_death(self, flight: _Flight) -> worker.Outcome | None:
        """Try again what was being scored, from where it was; a model that ends its workers time and again fails."""
        which = id(flight.addition)
        self._lost[which] += 1
        if self._begun[which] < _ATTEMPTS and self._lost[which] < _LOSSES:
            if flight.began:
                self._report.note(f"{flight.addition.model}: its worker died; it goes on elsewhere")
            return None
        times = max(self._begun[which], 1)
        told = (
            f"the worker that scored it died {times} times: it may need more memory than there is (--dtype bfloat16 takes "
            "half of float32), or crash a library"
        )
        return worker.Outcome(None, ModelError(told), [])

    def _settle(self, flight: _Flight, outcome: worker.Outcome) -> None:
        addition, error = flight.addition, outcome.error
        for revision, address in outcome.brought:
            self._brought[revision].add(address)
        try:
            if outcome.computed is None:
                raise error or ModelError("nothing came of it")
            result = addition.complete(outcome.computed)
        except (ModelError, InputError) as told:
            result = addition.failed(told)
        self._finish(addition, result, flight.report)

    def _finish(self, addition: Addition, result: AddResult, report: Reporter) -> None:
        report.finish(result)
        self._finished.append((addition, result))
        if self._evictions is None:
            return
        if not self._place.remote:
            self._evictions.delete(addition.source, self._report)
            return
        for revision in self._evictions.release(addition.source):
            for address in self._brought.pop(revision, ()):
                evicted = self._client.submit(
                    worker.evict, revision, workers=[address], allow_other_workers=True, pure=False, priority=1
                )
                self._deleting.append(evicted)

    def _wait_for_deletions(self) -> bool:
        """Wait until workers have deleted what they were told to; False if that was nothing."""
        from distributed import wait

        asked, self._deleting = self._deleting, []
        try:
            if asked:
                wait(asked, timeout=_EVICT_SECONDS)
        except TimeoutError:
            self._report.note("not all models were deleted from the workers' caches")
        return bool(asked)


class _BusyError(LlregError):
    """Another process is adding the row, or this one is."""


def _give_up() -> NoReturn:
    raise _BusyError


def _lost() -> NoReturn:
    raise ClusterError(
        "the Dask scheduler is lost; the rows that it had computed are written, and the same command goes on from there"
    )
