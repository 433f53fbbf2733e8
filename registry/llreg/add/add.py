"""`add`: compute models' rows and write them into a registry, resuming what was interrupted."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from llreg import atomic
from llreg.add.evictions import Evictions
from llreg.add.job import Scoring
from llreg.add.pinned import pin
from llreg.add.plan import Plan, plan
from llreg.add.prefetch import Ahead
from llreg.add.reporter import AddResult, Reporter
from llreg.add.request import Entry, Request, check_texts, read_requests
from llreg.add.task import Addition
from llreg_schemas.errors import InputError, ModelError

if TYPE_CHECKING:
    from llreg.store.contents import Contents

Order = Literal["size", "given"]
ORDERS: tuple[Order, ...] = ("size", "given")
Finished = tuple[Addition, AddResult]


def add(
    registry: Contents,
    models: Sequence[Entry],
    *,
    reporter: Reporter | None = None,
    order: Order = "size",
    evict: bool = False,
    workers: int | Literal["auto"] | None = None,
    cluster: str | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    **options: Any,
) -> list[AddResult]:
    """Compute the rows of models and write them into the registry.

    All models are looked up first. While one is scored, the next one is downloaded and its texts are tokenised.

    Parameters
    ----------
    registry : Contents
    models : sequence of str or mapping
        Hub ids, directories or ``.gguf`` files; or mappings with a `model` and options of its own, as
        `llreg.add.runfile.read_run_file` gives them, which go before those for all.
    reporter : Reporter, optional
    order : {"size", "given"}
        Which models are scored first: those with the fewest parameters, or those given first.
    evict : bool
        Delete a Hub model from the cache when it is done, unless it was there before.
    workers : int or "auto", optional
        Score in as many processes on this machine, each on a GPU of its own, or with its share of the cores where there
        is no GPU; "auto" is one a GPU. They are started as `multiprocessing` does it, so a script needs
        ``if __name__ == "__main__":``.
    cluster : str, optional
        Score on the workers of the Dask scheduler at this address that offer the resource GPU; "local" is
        ``workers="auto"``.
    on_plan : callable, optional
        Plan all models first, as `llreg.add.plan.plan` does, and call this with the plan: what it raises ends the run
        before anything is downloaded. Models with a problem fail with it, untried.
    **options
        See `llreg.add.request.Options`.

    Returns
    -------
    list of AddResult
        One a model, in the order given. A model that cannot be scored has status "failed" and does not stop the others.

    Raises
    ------
    InputError
        If the options do not fit together, or no scheduler answers; also `on_plan` with a cluster, since a plan tells
        what this machine can do.
    MissingExtraError
        If workers are asked for and distributed is not installed.
    ClusterError
        If the cluster has no worker that fits, or is lost; rows that it has computed are written.
    StorageError
        If the registry cannot be written; what was scored is kept and resumed.
    """
    if order not in ORDERS:
        raise InputError(f"order: expected one of {', '.join(ORDERS)}; got {order!r}")
    report = reporter or Reporter()
    if on_plan is not None:
        if cluster not in (None, "local"):
            raise InputError("--dry-run and --strict check what this machine can do: give them without --cluster")
        planned = plan(registry, models, progress=report.look_up, evict=evict, **options)
        on_plan(planned)
        run_options = {"order": order, "evict": evict, "workers": workers, "cluster": cluster, **options}
        return planned.results(add(registry, planned.good, reporter=report, **run_options))
    requests = read_requests(registry, models, options)
    atomic.sweep(registry.path)
    atomic.check_writable(registry.path)
    check_texts(registry, requests)
    if workers is None and cluster is None:
        run = _Run(registry, requests, report, order)
        return run.collect(_in_turn(run.left, run.evictions if evict else None, report))
    from llreg.add.cluster import Crew
    from llreg.add.places import find_place

    with find_place(cluster, workers, requests, report) as place:
        run = _Run(registry, requests, report, order, gpus=place.gpus)
        crew = Crew(place, run.left, run.evictions if evict else None, report)
        return run.collect(crew.run())


class _Run:
    """The models of one call: looked up, those that are to be scored in order, and the results.

    Attributes
    ----------
    left : list of Addition
        What is to be scored, in order.
    """

    def __init__(
        self, registry: Contents, requests: Sequence[Request], report: Reporter, order: Order, gpus: int | None = None
    ) -> None:
        found: list[Addition | AddResult] = []
        for k, request in enumerate(requests):
            report.look_up(k, len(requests))
            found.append(_look_up(registry, request, gpus))
        report.look_up(len(requests), len(requests))
        self._found = found
        for result in found:
            if isinstance(result, AddResult):
                report.begin(result.model)
                report.finish(result)
        self.left = [addition for addition in found if isinstance(addition, Addition)]
        if order == "size":
            self.left.sort(key=_size)

    @property
    def evictions(self) -> Evictions:
        """What may be deleted when it is done."""
        return Evictions(addition.source for addition in self.left)

    def collect(self, finished: Iterator[Finished]) -> list[AddResult]:
        """All results in the order given, once those of `left` are there."""
        results = {id(addition): result for addition, result in finished}
        return [entry if isinstance(entry, AddResult) else results[id(entry)] for entry in self._found]


def _look_up(registry: Contents, request: Request, gpus: int | None) -> Addition | AddResult:
    try:
        addition = Addition(registry, request, pin(registry, request, gpus=gpus))
        return addition.present() or addition
    except (ModelError, InputError) as error:
        return AddResult(request.model, "failed", None, str(error))


def _size(addition: Addition) -> float:
    parameters = addition.source.declared.get("num_parameters")
    return float("inf") if parameters is None else float(parameters)


def _in_turn(additions: Sequence[Addition], evictions: Evictions | None, report: Reporter) -> Iterator[Finished]:
    """Score models one after the other, here."""
    with Ahead() as ahead:
        for k, addition in enumerate(additions):
            report.begin(addition.model)
            following = additions[k + 1] if k + 1 < len(additions) else None
            try:
                result = _score(addition, ahead, following, report)
            except (ModelError, InputError) as error:
                result = addition.failed(error)
            report.finish(result)
            yield addition, result
            if evictions:
                evictions.delete(addition.source, report)
            gc.collect()  # modules hold themselves; the next model would be loaded beside this one


def _score(addition: Addition, ahead: Ahead, following: Addition | None, report: Reporter) -> AddResult:
    def waiting() -> None:
        report.note(f"{addition.source.name}: another llreg is adding it; waiting for that to finish")

    encoded = ahead.take()
    with addition.reserved(waiting):
        job = addition.begin()
        if isinstance(job, AddResult):
            return job
        scoring = Scoring(job, encoded)
        if following:
            ahead.start(following.job())
        with addition.journal.writing(job.kept):
            computed = scoring.run(addition.journal.write, report)
        return addition.complete(computed)
