"""Making maps from a registry: new ones, and old ones with new rows placed into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.geometry.kl.rows import Rows, load_rows, view_rows, with_distances
from llreg.geometry.kl.stream import RowStream, stream_rows
from llreg.geometry.view.view import view_of
from llreg.maps.align import align as align_map
from llreg.maps.document import Map, read_map
from llreg.maps.ellipses import resampled_ellipses
from llreg.maps.embedding import DENSE_ROWS, METHODS, Embedding, Method, Settings, embed_rows
from llreg.maps.placing import Roles, place_rows, roles
from llreg.maps.tsne import ITERATIONS, PERPLEXITY
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.view.view import AnyView
    from llreg.maps.nearest import Nearest
    from llreg.store.contents import Contents

__all__ = ["METHODS", "MapResult", "Method", "make_map", "place_onto"]

_LIBRARIES: dict[str, tuple[str, ...]] = {
    "tsne": ("llreg", "numpy", "scipy", "scikit-learn", "openTSNE"),
    "pca": ("llreg", "numpy", "scipy"),
    "mds": ("llreg", "numpy", "scipy"),
    "umap": ("llreg", "numpy", "scipy", "umap-learn", "pynndescent", "numba"),
}


@dataclass(frozen=True, eq=False)
class MapResult:
    """A map with the rows behind it.

    Attributes
    ----------
    map : Map
    rows : Rows or RowStream
        One a point, in the map's order; without values where they are too many.
    notes : sequence of str
        What the user should know of how it was made.
    nearest : Nearest or None
        Nearest rows of each, where the method has found them.
    errors : float64 array of shape (n_models, k) or None, bit/byte
        Standard errors of their KL; None: not computed yet.
    """

    map: Map
    rows: Rows | RowStream
    notes: Sequence[str] = ()
    nearest: Nearest | None = None
    errors: NDArray[np.float64] | None = None


def make_map(
    registry: Contents,
    models: Sequence[str] | None = None,
    *,
    view: AnyView = "default",
    method: Method = "tsne",
    perplexity: float | None = None,
    iterations: int = ITERATIONS,
    seed: int = 42,
    align: Map | Path | str | None = None,
    ellipses: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> MapResult:
    """Make a map of rows.

    Parameters
    ----------
    registry : Contents
    models : sequence of str, optional
        Which rows, as in `Contents.find`; all by default.
    view : View, mapping, path or "default"
        As in `llreg.geometry.view.view.view_of`.
    method : {"tsne", "pca", "mds", "umap"}
        t-SNE with the papers' settings; PCA of the double-centred rows; classical MDS of the KL matrix, which is the
        same where no texts are missing; UMAP, if umap-learn is installed.
    perplexity : float, optional
        Of t-SNE; by default 30, or (n_models - 1) / 3 if that is less.
    iterations : int
        Of t-SNE; P2's largest map has 10,000.
    seed : int
    align : Map or path, optional
        Turn the map to this one.
    ellipses : int
        Resamples of the texts for uncertainty ellipses, each of which makes the map once more; 0 for none.
    progress : callable, optional
        As in `resampled_ellipses`.

    Returns
    -------
    MapResult
        The same for the same version, view and settings.

    Raises
    ------
    NotFoundError, InputError, MissingExtraError
        If a name means no row or several, there are too few rows, or a setting is impossible.
    """
    to = None if align is None else read_map(align)
    if to is not None:
        to.check_registry(registry)
    rows = _load(registry, models, view)
    _check_different([record.digest for record in rows.records])
    settings = Settings(method, seed, perplexity, iterations).checked(len(rows))
    made = embed_rows(rows, settings)
    result = Map(
        **_origin(registry, rows),
        method=method,
        settings=settings.to_json(),
        software=_software(method),
        axes=made.axes,
        xy=made.xy,
        placed=np.zeros(len(rows), dtype=bool),
    )
    if to is not None:
        result = align_map(result, to)
    if ellipses:
        if not isinstance(rows, Rows):
            raise InputError(f"ellipses need whole KL matrices, up to {DENSE_ROWS:,} rows; got {len(rows):,}")
        spread = resampled_ellipses(rows, result.xy, settings, ellipses, progress=progress)
        result = replace(result, ellipses=spread, resamples=ellipses)
    notes = _notes(rows, settings, made, chosen=perplexity is not None)
    return MapResult(result, rows, notes, made.nearest, made.errors)


def place_onto(registry: Contents, onto: Map | Path | str, models: Sequence[str] | None = None) -> MapResult:
    """Place rows into a map without moving what is on it.

    Parameters
    ----------
    registry : Contents
    onto : Map or path
        Its view is used, whatever the registry's own is now.
    models : sequence of str, optional
        Rows to place, as in `Contents.find`; by default all that are not on the map.

    Returns
    -------
    MapResult
        The rows of the map that are in the registry, where they were, and the others.

    Raises
    ------
    InputError
        If the registry's rows do not compare with the map's, or too few of the map's are there.
    """
    old = read_map(onto)
    old.check_registry(registry)
    rows = load_rows(registry, None, old.view)
    if models is not None:
        wanted = {record.digest for record in registry.select(models)[0]} | set(old.digests)
        rows = rows.take([k for k, record in enumerate(rows.records) if record.digest in wanted])
    found = roles(old, rows)
    new = place_rows(old, rows, found)
    kept = [*found.made, *found.placed]
    there = [k for k, _ in kept]
    rows = rows.take([*(k for _, k in kept), *found.new])
    result = replace(
        old,
        **_origin(registry, rows),
        software=_software(old.method),
        xy=np.concatenate([old.xy[there], new]),
        placed=np.concatenate([old.placed[there], np.ones(len(new), dtype=bool)]),
        ellipses=None,
        resamples=0,
        aligned_to=None,
        onto=old.id,
    )
    return MapResult(result, rows, _placing_notes(old, found))


def _load(registry: Contents, models: Sequence[str] | None, view: AnyView) -> Rows | RowStream:
    """Rows with their values, or, if they are many, to be read a block at a time."""
    stream = stream_rows(registry, models, view_of(registry, view))
    if len(stream) > DENSE_ROWS:
        return stream
    rows = view_rows(registry, stream.records, stream.view, stream.version)
    return with_distances(rows) if models is None else rows  # what was named is told as an error


def _origin(registry: Contents, rows: Rows | RowStream) -> dict[str, Any]:
    """What a map says of the rows it is made of."""
    return {
        "registry": rows.registry,
        "text_set": registry.info.text_set.id,
        "protocol": registry.info.protocol_id,
        "version": rows.version,
        "view": rows.view,
        "row_ids": rows.row_ids,
        "digests": [record.digest for record in rows.records],
    }


def _software(method: str) -> Mapping[str, str]:
    """Versions of the libraries that decide the coordinates."""
    found = {}
    for name in _LIBRARIES[method]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # llreg from a checkout, without an install
            found[name] = _own_version() if name == "llreg" else "unknown"
    return found


def _own_version() -> str:
    from llreg._version import __version__

    return __version__


def _check_different(digests: Sequence[str]) -> None:
    if len(set(digests)) < len(digests):
        twice = next(digest for digest in digests if digests.count(digest) > 1)
        raise InputError(f"row {twice[:8]} is named twice; name each row of a map once")


def _notes(rows: Rows | RowStream, settings: Settings, made: Embedding, *, chosen: bool) -> list[str]:
    notes = []
    if settings.perplexity is not None and settings.perplexity < PERPLEXITY and not chosen:
        notes.append(
            f"perplexity {settings.perplexity:.3g} instead of {PERPLEXITY:g}: with {len(rows)} rows it can be no more"
        )
    if settings.method == "pca" and isinstance(rows, Rows) and (missing := np.isnan(rows.values).any(axis=1).sum()):
        notes.append(f"{missing} rows lack texts and are drawn towards the middle; --method mds is right for them")
    if made.errors is not None and np.isnan(made.errors).all():
        notes.append(f"neighbours of {len(rows):,} rows are taken from their leading principal coordinates, without SE")
    return notes


def _placing_notes(old: Map, found: Roles) -> list[str]:
    notes = [f"{len(found.new)} rows placed; the {len(found.made) + len(found.placed)} on the map stay where they are"]
    if found.gone:
        notes.append(f"{found.gone} rows of the map are not here any more and are left out")
    if old.ellipses is not None:
        notes.append("ellipses are left out: placed rows have none")
    return notes
