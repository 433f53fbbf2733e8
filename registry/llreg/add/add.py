"""`add`: compute models' rows and write them into a registry, resuming what was interrupted."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

from llreg import atomic
from llreg.add.job import Scoring
from llreg.add.plan import Plan, plan
from llreg.add.prefetch import Evictions, Prefetch
from llreg.add.reporter import AddResult, Reporter
from llreg.add.request import Entry, Request, check_texts, read_requests
from llreg.add.task import Task
from llreg_schemas.errors import InputError, ModelError

if TYPE_CHECKING:
    from llreg.store.contents import Contents

Order = Literal["size", "given"]
ORDERS: tuple[Order, ...] = ("size", "given")


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

    Behind `Registry.add`, which describes parameters, result and errors.
    """
    if order not in ORDERS:
        raise InputError(f"order: expected one of {', '.join(ORDERS)}; got {order!r}")
    report = reporter or Reporter()
    if on_plan is not None:
        if cluster not in (None, "local"):
            raise InputError(
                "on_plan gets what this machine can do, and not a cluster elsewhere: leave one of them out"
            )
        planned = plan(registry, models, progress=report.look_up, evict=evict, **options)
        on_plan(planned)
        run: dict[str, Any] = {"order": order, "evict": evict, "workers": workers, "cluster": cluster}
        return planned.results(add(registry, planned.good, reporter=report, **run, **options))
    # Everything that can be refused is refused before the first model is looked up.
    requests = read_requests(registry, models, options)
    atomic.sweep(registry.path)
    atomic.check_writable(registry.path)
    check_texts(registry, requests)
    with ExitStack() as stack:
        pool = None
        if workers is not None or cluster is not None:
            from llreg.add.cluster import ClusterScoring, find_workers  # distributed is an extra

            pool = stack.enter_context(find_workers(cluster, workers, requests, report))
        tasks = _look_up(registry, requests, report, pool.gpus if pool else None)
        to_score = [task for task in tasks if isinstance(task, Task)]
        if order == "size":
            to_score.sort(key=_size)
        evictions = Evictions(task.source for task in to_score) if evict else None
        if pool:
            finished = ClusterScoring(pool, to_score, evictions, report).run()
        else:
            finished = _score_in_turn(to_score, evictions, report)
        # Models finish in any order; their results are given in the order asked for.
        results: dict[int, AddResult] = {}
        for task, result in finished:
            results[id(task)] = result
            if result.status == "added" and (advice := task.name_advice()):
                report.note(advice)
        return [task if isinstance(task, AddResult) else results[id(task)] for task in tasks]


def _look_up(
    registry: Contents, requests: Sequence[Request], report: Reporter, gpus: int | None
) -> list[Task | AddResult]:
    """Find all models, one entry a request: what is to be scored, or the result where nothing is."""
    tasks: list[Task | AddResult] = []
    for k, request in enumerate(requests):
        report.look_up(k, len(requests))
        try:
            task = Task(registry, request, gpus=gpus)
            tasks.append(task.present() or task)
        except (ModelError, InputError) as error:
            tasks.append(AddResult(request.model, "failed", None, str(error)))
    report.look_up(len(requests), len(requests))
    # Models that are there already, or that were not found, have their turn at once.
    for result in tasks:
        if isinstance(result, AddResult):
            report.begin(result.model)
            report.finish(result)
    return tasks


def _size(task: Task) -> float:
    """Parameters; those of unknown size are the largest."""
    parameters = task.source.declared.get("num_parameters")
    return float("inf") if parameters is None else float(parameters)


def _score_in_turn(
    tasks: Sequence[Task], evictions: Evictions | None, report: Reporter
) -> Iterator[tuple[Task, AddResult]]:
    """Score models one after the other in this process, the next one prepared meanwhile."""
    with Prefetch() as prefetch:
        for k, task in enumerate(tasks):
            report.begin(task.model)
            try:
                result = _score(task, prefetch, tasks[k + 1] if k + 1 < len(tasks) else None, report)
            except (ModelError, InputError) as error:
                result = task.failed(error)
            report.finish(result)
            yield task, result
            if evictions:
                evictions.delete(task.source, report)
            gc.collect()  # modules hold themselves; the next model would be loaded beside this one


def _score(task: Task, prefetch: Prefetch, following: Task | None, report: Reporter) -> AddResult:
    """Score one model; a function of its own, so that nothing holds the model when it returns."""
    encoded = prefetch.take()
    with task.reserved(report):
        job = task.begin()
        if isinstance(job, AddResult):
            return job
        scoring = Scoring(job, encoded)
        if following:  # this model's files are here: the network is free for the next one's
            prefetch.start(following.job())
        with task.journal.writing(job.kept):
            computed = scoring.run(task.journal.write, report)
        return task.complete(computed)
