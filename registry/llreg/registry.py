"""The registry: a directory of rows measured under one protocol on one text set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg.hub.remote.registry import RemoteContents, find_folder
from llreg.store.contents import Contents
from llreg.store.folder import LocalFolder
from llreg.store.layout import STORE
from llreg.store.zarr_read import StoreReader
from llreg_schemas import RowRecord
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from xarray import Dataset

    from llreg.add.plan import Plan
    from llreg.add.reporter import AddResult
    from llreg.exporters.selection import Selection
    from llreg.geometry.kl.rows import Rows
    from llreg.geometry.lineage import Duplicates, Lineage
    from llreg.geometry.neighbors import Neighbors
    from llreg.geometry.predict.prediction import Prediction
    from llreg.geometry.tree.tree import Tree
    from llreg.geometry.view.view import View
    from llreg.hub.judge.verdict import Verdict
    from llreg.hub.sync.pull import PullResult
    from llreg.hub.sync.upload import PushResult
    from llreg.maps.document import Map
    from llreg.maps.make import MapResult
    from llreg.store.annotations import Annotations
    from llreg.store.validate import Problem
    from llreg.verify.comparison import Agreement

    AnyView = View | Mapping[str, Any] | Path | str


class Registry(Contents):
    """A registry, and what can be done with it.

    Parameters
    ----------
    path : str or Path
    revision : str, optional
        A version's tag.
    """

    def __init__(self, path: str | Path, *, revision: str | None = None) -> None:
        root = Path(path).expanduser().resolve()
        super().__init__(LocalFolder(root), StoreReader(root / STORE), revision=revision)

    def __reduce__(self) -> tuple[Callable[..., Contents], tuple[str, str | None]]:
        return _reopen, (str(self.path), self.revision)

    # Geometry

    @property
    def view(self) -> View:
        """The default view: its clip threshold is frozen, so that distances do not move when rows come."""
        from llreg.geometry.view.view import View

        return View.from_json(self.view_document)

    def rows(self, models: Sequence[str] | None = None, *, view: AnyView = "default") -> Rows:
        """Rows as a view shows them, in memory: what all geometry is computed from.

        Parameters
        ----------
        models : sequence of str, optional
            Which rows, as in `find`; all by default.
        view : View, mapping, path or "default"
            A view, its document, a JSON file that holds one, or the registry's own.
        """
        from llreg.geometry.kl.rows import load_rows

        return load_rows(self, models, self.seen_through(view))

    def seen_through(self, view: AnyView | None) -> View:
        """A view from what may be given for one: the registry's own for "default" or None."""
        from llreg.geometry.view.view import read_view

        return self.view if view is None or view == "default" else read_view(view)

    def kl(
        self,
        models: Sequence[str] | None = None,
        others: Sequence[str] | None = None,
        *,
        clip: float | str | None = "default",
        view: AnyView = "default",
        se: bool = True,
        tail_share: bool | None = None,
    ) -> Dataset:
        """KL divergences between rows, with standard errors.

        Parameters
        ----------
        models, others : sequence of str, optional
            Which rows, as in `find`. `models` are all by default; `others` are `models` by default.
        clip : float, None or "default"
            Clip threshold instead of the view's, nats per text; None for none.
        view : View, mapping, path or "default"
            As in `rows`.
        se, tail_share : bool
            Whether to compute standard errors and tail shares; the latter by default up to 20,000 pairs.

        Returns
        -------
        xarray.Dataset
            Dims (model, other); float64 ``kl``, ``kl_se`` in nats per text, ``kl_bits_per_byte``,
            ``kl_bits_per_byte_se``, ``tail_share``; int64 ``num_texts``; row ids and model names as coordinates;
            the version and the view in the attributes. Formulas in `llreg.geometry.kl_matrix`.
        """
        from dataclasses import replace

        from llreg.geometry.kl.distance import kl_rows

        seen = self.seen_through(view)
        if clip != "default":
            if isinstance(clip, str):
                raise InputError(f"clip: expected a number, None or 'default'; got {clip!r}")
            seen = replace(seen, clip=clip)
        rows = self.rows(models, view=seen)
        second = None if others is None else self.rows(others, view=seen)
        return kl_rows(rows, second, se=se, tail_share=tail_share)

    def neighbors(
        self, query: str | Path | NDArray[np.floating], k: int = 10, *, view: AnyView = "default", **options: Any
    ) -> Neighbors:
        """The rows nearest to a row or a vector; see `llreg.geometry.neighbors.neighbors`."""
        from llreg.geometry.neighbors import neighbors

        return neighbors(self, query, k, view=self.seen_through(view), **options)

    def lineage(self, model: str, *, view: AnyView = "default", **options: Any) -> Lineage:
        """Whether the nearest rows are relatives of a row; see `llreg.geometry.lineage.lineage`."""
        from llreg.geometry.lineage import lineage

        return lineage(self, model, view=self.seen_through(view), **options)

    def duplicates(self, *, view: AnyView = "default") -> list[Duplicates]:
        """Rows of different models that cannot be told apart; see `llreg.geometry.lineage.duplicates`."""
        from llreg.geometry.lineage import duplicates

        return duplicates(self, view=self.seen_through(view))

    def tree(self, models: Sequence[str] | None = None, *, view: AnyView = "default", **options: Any) -> Tree:
        """A tree of rows by their KL divergences; see `llreg.geometry.tree.tree.make_tree`."""
        from llreg.geometry.kl.rows import with_distances
        from llreg.geometry.tree.tree import make_tree

        rows = self.rows(models, view=view)
        return make_tree(with_distances(rows) if models is None else rows, **options)

    def trajectory(self, models: Sequence[str], *, view: AnyView = "default", **options: Any) -> Dataset:
        """Checkpoints or sizes as a path; see `llreg.geometry.trajectory.trajectory`."""
        from llreg.geometry.trajectory import trajectory

        return trajectory(self.rows(models, view=view), **options)

    def map(self, models: Sequence[str] | None = None, **options: Any) -> MapResult:
        """A map of rows in the plane; see `llreg.maps.make.make_map`."""
        from llreg.maps.make import make_map

        return make_map(self, models, **options)

    def place(self, onto: Map | Path | str, models: Sequence[str] | None = None) -> MapResult:
        """Place rows into a map without moving what is on it; see `llreg.maps.make.place_onto`."""
        from llreg.maps.make import place_onto

        return place_onto(self, onto, models)

    def predict(
        self,
        scores: Any,
        *,
        tasks: Sequence[str] | None = None,
        family: str | None = None,
        view: AnyView = "default",
        **options: Any,
    ) -> Prediction:
        """Predict benchmark scores from rows; see `llreg.geometry.predict.predict.predict`."""
        from llreg.geometry.predict.predict import predict
        from llreg.geometry.predict.scores import read_scores
        from llreg.store.annotations import table_file

        source = table_file(self, scores) if isinstance(scores, (str, Path)) else scores
        return predict(self.rows(view=view), read_scores(source, tasks=tasks, family=family), **options)

    def subset(self, size: int | None = None, *, view: AnyView = "default", **options: Any) -> dict[str, Any]:
        """Draw a sample of the texts for `add(..., subset=...)`; see `llreg.geometry.subset.subset.make_subset`."""
        from llreg.geometry.subset.subset import make_subset

        return make_subset(self, size, view=self.seen_through(view), **options)

    def summary(self) -> list[dict[str, Any]]:
        """A line a row, as `llreg ls` shows it; see `llreg.store.listings.summary`."""
        from llreg.store.listings import summary

        return summary(self)

    def status(self) -> dict[str, Any]:
        """What is not built or not finished; see `llreg.store.listings.status`."""
        from llreg.store.listings import status

        return status(self)

    def log(self) -> list[dict[str, Any]]:
        """What happened, newest first; see `llreg.store.listings.log`."""
        from llreg.store.listings import log

        return log(self)

    def diff(self, old: str, new: str | None = None) -> dict[str, Any]:
        """Rows that one version has and another has not; see `llreg.store.listings.diff`."""
        from llreg.store.listings import diff

        return diff(self, old, new)

    def export(self, path: str | Path, models: Sequence[str] | None = None, **options: Any) -> Selection:
        """Write rows, their tree or their neighbour graph for other tools; see `llreg.exporters.writing.export`."""
        from llreg.exporters.writing import export

        return export(self, path, models, **options)

    # Changing it

    def plan(self, models: Sequence[str | Mapping[str, Any]], **options: Any) -> Plan:
        """What adding models will take, and what stands against it; see `llreg.add.plan.plan`."""
        from llreg.add.plan import plan

        return plan(self, models, **options)

    def add(self, models: Sequence[str | Mapping[str, Any]], **options: Any) -> list[AddResult]:
        """Compute rows and add them; see `llreg.add.add.add`."""
        from llreg.add.add import add

        return add(self, models, **options)

    def annotate(self, source: Any, *, name: str | None = None) -> Annotations:
        """Keep a table of one's own columns beside the rows; see `llreg.store.annotations.annotate`."""
        from llreg.store.annotations import annotate

        return annotate(self, source, name=name)

    def build(self) -> str:
        """Make ``store.zarr``, ``models.parquet`` and the card from the accepted rows; return the version id."""
        from llreg.store.build import build

        return build(self)

    def check_build(self) -> list[str]:
        """What is not current in the build; an empty list if it is."""
        from llreg.store.build import check_build

        return check_build(self)

    def tag(self, name: str) -> dict[str, Any]:
        """Name the present version; see `llreg.store.versions.tag`."""
        from llreg.store.versions import tag

        return tag(self, name)

    def retract(self, name: str, *, why: str) -> RowRecord:
        """Withdraw a row; see `llreg.store.versions.retract`."""
        from llreg.store.versions import retract

        return retract(self, name, why=why)

    def validate(
        self, paths: Sequence[Path] = (), *, progress: Callable[[int, int], None] | None = None
    ) -> list[Problem]:
        """Check every file, or the given ones; return what is wrong."""
        from llreg.store.validate import validate

        return validate(self, paths, progress=progress)

    def verify(self, model: str, texts: int = 32, **options: Any) -> Agreement:
        """Score some of a row's texts again with its model, and compare; see `llreg.verify.verify.verify`."""
        from llreg.verify.verify import verify

        return verify(self, model, texts, **options)

    # With the Hub

    def pull(self, repo: str | None = None, **options: Any) -> PullResult:
        """Bring it to what is on the Hub; see `llreg.hub.sync.pull.pull`."""
        from llreg.hub.sync.pull import pull

        return pull(self, repo, **options)

    def push(self, repo: str | None = None, **options: Any) -> PushResult:
        """Publish rows; see `llreg.hub.sync.push.push`."""
        from llreg.hub.sync.push import push

        return push(self, repo, **options)

    def review(self, numbers: Sequence[int] | None = None, **options: Any) -> list[Verdict]:
        """Check pull requests, and merge the good ones; see `llreg.hub.review.review.review`."""
        from llreg.hub.review.review import review

        return review(self, options.pop("repo", None), numbers, **options)


class HubRegistry(Registry, RemoteContents):
    """A registry on the Hub at one commit: all verbs of `Registry` that only read."""

    def __init__(self, repo: str, *, revision: str | None = None) -> None:
        folder, version = find_folder(repo, revision)
        RemoteContents.__init__(self, folder, revision=version)

    def __reduce__(self) -> tuple[Callable[..., Contents], tuple[str, str | None]]:
        return _reopen_on_hub, (self.repo, self.revision or self.commit)


def _reopen(path: str, revision: str | None) -> Registry:
    return Registry(path, revision=revision)


def _reopen_on_hub(repo: str, revision: str | None) -> Registry:
    return HubRegistry(repo, revision=revision)
