"""Verbs of a registry that show its rows as a whole: trees, maps, and files for other tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llreg.registry.geometry import GeometryVerbs

if TYPE_CHECKING:
    from llreg.exporters.selection import Selection
    from llreg.geometry.tree.tree import Tree
    from llreg.geometry.view.view import AnyView
    from llreg.maps.document import Map
    from llreg.maps.make import MapResult

Progress = Callable[[int, int], None]


class MapVerbs(GeometryVerbs):
    """What is made from all distances at once."""

    def tree(
        self,
        models: Sequence[str] | None = None,
        *,
        view: AnyView = "default",
        method: Literal["average", "ward", "nj"] = "average",
        bootstrap: int = 0,
        seed: int = 42,
        progress: Progress | None = None,
    ) -> Tree:
        """A tree of models by their KL divergences.

        Parameters
        ----------
        models : sequence of str, optional
            At least two rows, as in `rows`; by default all that have distances to all others.
        view : View, mapping, path or "default"
            As in `rows`.
        method : {"average", "ward", "nj"}
            Average linkage on KL; Ward linkage on scaled coordinates; neighbour joining on KL.
        bootstrap : int
            Resamples of the texts that give the support of each group; 0 for none.
        seed : int
            Of the resamples. The same rows, method and seed give the same tree.
        progress : callable, optional
            Called with (done, bootstrap) after each resample.

        Returns
        -------
        Tree
            Branch lengths in bits per byte; of Ward linkage in their root.

        Raises
        ------
        InputError
            With fewer than two rows, an unknown method, or two rows without common texts.

        Examples
        --------
        >>> tree = reg.tree(["toy/owl-1b", "toy/owl-3b", "toy/fox-1b", "toy/fox-3b"])
        >>> print(tree.newick(), end="")
        ((toy/fox-1b:...,toy/fox-3b:...):...,(toy/owl-1b:...,toy/owl-3b:...):...);
        >>> supported = reg.tree(["toy/owl-1b", "toy/owl-3b", "toy/fox-1b"], method="nj", bootstrap=10)
        >>> supported.attrs["method"], supported.attrs["bootstrap"]
        ('nj', 10)
        """
        from llreg.geometry.kl.rows import with_distances
        from llreg.geometry.tree.make import make_tree

        rows = self.rows(models, view=view)
        rows = with_distances(rows) if models is None else rows
        return make_tree(rows, method=method, bootstrap=bootstrap, seed=seed, progress=progress)

    def map(
        self,
        models: Sequence[str] | None = None,
        *,
        view: AnyView = "default",
        method: Literal["tsne", "pca", "mds", "umap"] = "tsne",
        perplexity: float | None = None,
        iterations: int = 1000,
        seed: int = 42,
        align: Map | Path | str | None = None,
        ellipses: int = 0,
        progress: Progress | None = None,
    ) -> MapResult:
        """A map of rows in the plane.

        Parameters
        ----------
        models : sequence of str, optional
            Which rows, as in `rows`; all by default.
        view : View, mapping, path or "default"
            As in `rows`.
        method : {"tsne", "pca", "mds", "umap"}
            t-SNE with the papers' settings; PCA of the double-centred rows; classical MDS of the KL matrix, which is the
            same where no texts are missing; UMAP, if umap-learn is installed.
        perplexity : float, optional
            Of t-SNE; by default 30, or (n_models - 1) / 3 if that is less.
        iterations : int
            Of t-SNE.
        seed : int
            Of t-SNE, UMAP and the resamples. The same version, view, settings and seed give the same map.
        align : Map or path, optional
            Turn the map to this one.
        ellipses : int
            Resamples of the texts for uncertainty ellipses, each of which makes the map once more; 0 for none.
        progress : callable, optional
            Called with (done, ellipses) after each resample.

        Returns
        -------
        MapResult
            The ``map``, with its points ``xy``, and the ``rows`` behind it.

        Raises
        ------
        NotFoundError, InputError, MissingExtraError
            If a name means no row or several, there are too few rows, or a setting is impossible.

        Examples
        --------
        >>> result = reg.map(method="pca")
        >>> result.map.xy.shape, result.map.method
        ((29, 2), 'pca')
        >>> from dataclasses import replace
        >>> clipped = reg.map(method="pca", view=replace(reg.view, clip=-300.0), align=result.map)
        >>> clipped.map.row_ids == result.map.row_ids, clipped.map.aligned_to == result.map.id
        (True, True)
        """
        from llreg.maps.make import make_map

        return make_map(
            self,
            models,
            view=view,
            method=method,
            perplexity=perplexity,
            iterations=iterations,
            seed=seed,
            align=align,
            ellipses=ellipses,
            progress=progress,
        )

    def place(self, onto: Map | Path | str, models: Sequence[str] | None = None) -> MapResult:
        """Place rows into a map without moving what is on it.

        Parameters
        ----------
        onto : Map or path
            Its view is used, whatever the registry's own is now.
        models : sequence of str, optional
            Rows to place, as in `rows`; by default all that are not on the map.

        Returns
        -------
        MapResult
            The rows of the map that are in the registry, where they were, and the others.

        Raises
        ------
        InputError
            If the registry's rows do not compare with the map's, or too few of the map's are here.

        Examples
        --------
        >>> pairs = [f"toy/{name}-{size}b" for name in ("owl", "fox", "hare", "elk") for size in (1, 3)]
        >>> old = reg.map(pairs, method="pca").map
        >>> new = reg.place(old, ["toy/owl-3b-chat"]).map
        >>> int(new.placed.sum()), bool((new.xy[:8] == old.xy).all())
        (1, True)
        >>> len(reg.place(old).map.row_ids)
        29
        """
        from llreg.maps.make import place_onto

        return place_onto(self, onto, models)

    def export(
        self,
        path: str | Path,
        models: Sequence[str] | None = None,
        *,
        view: AnyView | None = None,
        long: bool = False,
        k: int | None = None,
        method: Literal["average", "ward", "nj"] | None = None,
        progress: Progress | None = None,
    ) -> Selection:
        """Write rows, their tree or their neighbour graph to a file for other tools.

        Parameters
        ----------
        path : str or Path
            Rows: ``.npz``, ``.csv``, ``.parquet``, ``.h5ad``. A tree: ``.nwk``, ``.newick``, ``.tree``. A graph of nearest
            neighbours: ``.graphml``.
        models : sequence of str, optional
            Which rows, as in `rows`; all by default.
        view : View, mapping, path or "default", optional
            By default rows are written raw, and distances of trees and graphs are through the registry's own view.
        long : bool
            CSV with a line a value instead of a line a model.
        k : int, optional
            Neighbours of each row in a graph; 10 by default.
        method : {"average", "ward", "nj"}, optional
            Of a tree, as in `tree`; "average" by default.
        progress : callable, optional
            Called with (done, rows).

        Returns
        -------
        Selection
            What was written: its rows, texts, version and view.

        Raises
        ------
        InputError
            If the ending says no format, an option does not go with it, or the file cannot be there.
        NotFoundError, MissingExtraError, StorageError
            If a name means no row, anndata is needed and not installed, or the disk is full.

        Examples
        --------
        >>> selection = reg.export("rows.npz", ["toy/owl-1b", "toy/owl-3b"])
        >>> import numpy as np
        >>> with np.load("rows.npz") as file:
        ...     print(file["model"], file["log_likelihood"].shape)
        ['toy/owl-1b@f5a54f5f' 'toy/owl-3b@1ffc46d8'] (2, 128)
        >>> len(reg.export("graph.graphml", k=3))
        29
        """
        from llreg.exporters.export import export

        return export(self, path, models, view=view, long=long, k=k, method=method, progress=progress)
