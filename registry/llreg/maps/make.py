"""Making maps from a registry: new ones, and old ones with new rows placed into them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg._version import __version__
from llreg.geometry.kl.rows import Rows, load_rows, view_rows, with_distances
from llreg.geometry.kl.stream import RowStream, stream_rows
from llreg.geometry.view.view import view_of
from llreg.maps.document import Map, read_map
from llreg.maps.embedding import DENSE_ROWS, Method, Settings, embed_rows, resampled_ellipses
from llreg.maps.nearest import Nearest, nearest_rows
from llreg.maps.placement import align as align_map
from llreg.maps.placement import find_roles, place_rows
from llreg.maps.tsne import ITERATIONS, PERPLEXITY
from llreg.store.listings import accuracy
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from llreg.geometry.view.view import AnyView
    from llreg.store.contents import Contents

_SAMPLE = 256  # rows of a map by which it is told what is far
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
    accuracy : sequence of (float or None)
        Next-token accuracy of each; None of rows without segments.
    """

    map: Map
    rows: Rows | RowStream
    notes: Sequence[str] = ()
    nearest: Nearest | None = None
    accuracy: Sequence[float | None] = ()


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

    Behind `Registry.map`, which describes parameters, result and errors.
    """
    old = None if align is None else read_map(align)
    if old is not None:
        old.check_registry(registry)
    stream = stream_rows(registry, models, view_of(registry, view))
    rows: Rows | RowStream = stream
    if len(stream) <= DENSE_ROWS:
        rows = view_rows(registry, stream.records, stream.view, stream.version)
        if models is None:
            rows = with_distances(rows)  # a row that was named and has no distance is an error
    digests = [record.digest for record in rows.records]
    repeated = next((digest for digest, count in Counter(digests).items() if count > 1), None)
    if repeated:
        raise InputError(f"row {repeated[:8]} is named twice; name each row of a map once")

    settings = Settings(method, seed, perplexity, iterations).checked(len(rows))
    embedding = embed_rows(rows, settings)
    result = Map(
        **_origin(registry, rows),
        method=method,
        settings=settings.to_json(),
        software=_software(method),
        axes=embedding.axes,
        xy=embedding.xy,
        placed=np.zeros(len(rows), dtype=bool),
    )
    if old is not None:
        result = align_map(result, old)
    if ellipses:
        covariances = resampled_ellipses(rows, result.xy, settings, ellipses, progress=progress)
        result = replace(result, ellipses=covariances, resamples=ellipses)

    notes = []
    if perplexity is None and settings.perplexity is not None and settings.perplexity < PERPLEXITY:
        notes.append(
            f"perplexity {settings.perplexity:.3g} instead of {PERPLEXITY:g}: with {len(rows)} rows it can be no more"
        )
    if method == "pca" and isinstance(rows, Rows) and (missing := np.isnan(rows.values).any(axis=1).sum()):
        notes.append(f"{missing} rows lack texts and are drawn towards the middle; --method mds is right for them")
    neighbors = embedding.nearest
    if neighbors is not None and neighbors.kl_se is not None and np.isnan(neighbors.kl_se).all():
        notes.append(f"neighbours of {len(rows):,} rows are taken from their leading principal coordinates, without SE")
    return MapResult(result, rows, notes, neighbors, _accuracy(registry, rows))


def place_onto(registry: Contents, onto: Map | Path | str, models: Sequence[str] | None = None) -> MapResult:
    """Place rows into a map without moving what is on it.

    Behind `Registry.place`, which describes parameters, result and errors.
    """
    old = read_map(onto)
    old.check_registry(registry)
    rows = load_rows(registry, None, old.view)
    if models is not None:
        digests = {record.digest for record in registry.select(models)[0]} | set(old.digests)
        rows = rows.take([k for k, record in enumerate(rows.records) if record.digest in digests])
    lacking = np.flatnonzero(~rows.has_fine) if rows.fine is not None else np.empty(0, np.intp)
    if len(lacking):  # their distances are of another size than the map's
        rows = rows.take(np.flatnonzero(rows.has_fine))
    roles = find_roles(old, rows)
    xy = place_rows(old, rows, roles)

    # First the rows that are on the map already, as they are, then the new ones.
    on_map = [*roles.reference, *roles.placed]
    positions = [k for k, _ in on_map]
    rows = rows.take([*(k for _, k in on_map), *roles.new])
    result = replace(
        old,
        **_origin(registry, rows),
        software=_software(old.method),
        xy=np.concatenate([old.xy[positions], xy]),
        placed=np.concatenate([old.placed[positions], np.ones(len(xy), dtype=bool)]),
        ellipses=None,
        resamples=0,
        aligned_to=None,
        onto=old.id,
    )
    notes = [
        f"{len(roles.new)} rows placed; the {len(on_map)} on the map stay where they are",
        *far_rows(rows, len(on_map)),
    ]
    if roles.num_gone:
        notes.append(f"{roles.num_gone} rows of the map are not here any more and are left out")
    if len(lacking):
        notes.append(f"{len(lacking)} rows without segments are left out: the map is made of segments")
    if old.ellipses is not None:
        notes.append("ellipses are left out: placed rows have none")
    return MapResult(result, rows, notes, accuracy=_accuracy(registry, rows))


def far_rows(rows: Rows, num_on_map: int) -> list[str]:
    """What to say of placed rows that are like nothing on the map: their place there means little.

    Parameters
    ----------
    rows : Rows
        First those on the map, then those that were placed.
    num_on_map : int
    """
    if num_on_map < 2 or num_on_map == len(rows):
        return []
    on_map, new = rows.take(range(num_on_map)), rows.take(range(num_on_map, len(rows)))
    # How far rows of the map are from their nearest, of many those of a sample: the first of the two is the row itself.
    sample = on_map.take(np.unique(np.linspace(0, num_on_map - 1, min(num_on_map, _SAMPLE)).astype(int)))
    usual = float(np.nanmax(nearest_rows(sample, on_map, 2).kl[:, 1]))
    nearest = nearest_rows(new, on_map, 1)
    return [
        f"{new.labels[k]} is far from everything on the map: {nearest.kl[k, 0]:.3g} bits/byte from {on_map.labels[index]}, where "
        f"rows of the map are at most {usual:.3g} from their nearest"
        for k, index in enumerate(nearest.index[:, 0])
        if nearest.kl[k, 0] > usual
    ]


def _accuracy(registry: Contents, rows: Rows | RowStream) -> list[float | None]:
    return [line["accuracy"] for line in accuracy(registry, rows.row_ids)]


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
    versions = {}
    for name in _LIBRARIES[method]:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # llreg from a checkout, without an install
            versions[name] = __version__ if name == "llreg" else "unknown"
    return versions
