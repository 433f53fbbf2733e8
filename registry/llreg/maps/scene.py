"""What a map shows: points, the columns that colour them, neighbours, layers; and how they are had from a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llreg.geometry.families import families_of
from llreg.geometry.kl.rows import Rows
from llreg.geometry.trajectory import find_trajectories
from llreg.maps.nearest import exact_neighbors, nearest_rows, sketch, sketched_neighbors, with_errors
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.stream import RowStream
    from llreg.maps.make import MapResult
    from llreg_schemas import RowRecord

NEIGHBORS = 10
# Columns that every table of a map has besides those of the scene.
TABLE_COLUMNS = ("row_id", "model", "x", "y", "placed", "nearest", "nearest_kl", "nearest_kl_se", "neighbors")
_METHOD_TITLES = {"tsne": "t-SNE", "pca": "PCA", "mds": "classical MDS", "umap": "UMAP"}


@dataclass(frozen=True)
class Column:
    """One value a model, to colour points by and to show in tables.

    Attributes
    ----------
    name : str
        Name in tables, as "num_parameters".
    title : str
        What people read, as "parameters".
    kind : {"category", "number", "date"}
        How it is coloured: categories get a legend, numbers and dates a colour bar.
    values : sequence of str, float or None
        One a model; str for categories, float for numbers, ISO 8601 days ("2025-03-01") for dates; None where unknown.
    unit : str or None
        Unit of numbers, as "nat/text".
    log : bool
        Whether numbers spread better on a logarithmic scale.
    """

    name: str
    title: str
    kind: Literal["category", "number", "date"]
    values: Sequence[str | float | None]
    unit: str | None = None
    log: bool = False


@dataclass(frozen=True)
class Scene:
    """A map ready to be drawn or tabulated; every name in it is untrusted text.

    Attributes
    ----------
    title, subtitle : str
    row_ids, names : sequence of str
        Row ids (unique) and model names (what is shown), one a model.
    xy : float64 array of shape (n_models, 2)
        Coordinates; without unit for t-SNE and UMAP, sqrt(bit/byte) for PCA and MDS.
    axes : pair of str
        Axis labels; empty where an axis has no meaning of its own.
    columns : sequence of Column
        The first one colours the map unless another is asked for.
    neighbors : int array of shape (n_models, k)
        Positions of the nearest rows, nearest first; -1 where there are fewer.
    kl, kl_se : float64 arrays of shape (n_models, k), bit/byte
        KL divergence to the neighbours and its standard error; NaN where there are fewer.
    edges : sequence of (int, int, str)
        Declared parent, child, and relation ("finetune", "quantized", …).
    trajectories : sequence of (str, sequence of int)
        Name and rows, in order, of a path of checkpoints or sizes.
    ellipses : float64 array of shape (n_models, 3) or None
        Covariance (xx, xy, yy) of each point under resampling of the texts.
    links : sequence of (str or None)
        https address of a model's page, where it has one.
    placed : bool array of shape (n_models,) or None
        Points that were placed into an existing map.
    facts : sequence of (str, str)
        How the map was made, for the foot of the page: registry, version, view, method, settings.
    """

    title: str
    subtitle: str
    row_ids: Sequence[str]
    names: Sequence[str]
    xy: NDArray[np.float64]
    axes: tuple[str, str] = ("", "")
    columns: Sequence[Column] = ()
    neighbors: NDArray[np.intp] = field(default_factory=lambda: np.empty((0, 0), np.intp))
    kl: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    kl_se: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    edges: Sequence[tuple[int, int, str]] = ()
    trajectories: Sequence[tuple[str, Sequence[int]]] = ()
    ellipses: NDArray[np.float64] | None = None
    links: Sequence[str | None] = ()
    placed: NDArray[np.bool_] | None = None
    facts: Sequence[tuple[str, str]] = ()


def make_scene(result: MapResult, *, scores: Path | str | None = None) -> Scene:
    """A map with all that pages, figures and tables show beside it.

    Parameters
    ----------
    result : MapResult
    scores : Path, optional
        As in `map_columns`.

    Returns
    -------
    Scene
        With the ten nearest rows of each by KL divergence over the view's texts, whatever the map shows.
    """
    rows, made = result.rows, result.map
    count = min(NEIGHBORS, len(rows) - 1)
    if result.nearest is not None:
        neighbors = result.nearest.first(count)
    elif isinstance(rows, Rows):
        neighbors = nearest_rows(rows, None, count)
    else:
        neighbors = exact_neighbors(rows, sketched_neighbors(sketch(rows), 3 * count), count)
    if neighbors.kl_se is None and isinstance(rows, Rows):
        neighbors = with_errors(rows, neighbors)
    assert neighbors.kl_se is not None  # a stream's neighbours come with theirs

    facts = [
        ("registry", made.registry),
        ("version", made.version[:12]),
        ("models", f"{len(rows):,}"),
        ("texts", f"{len(rows.texts):,}"),
        ("view", f"{made.view.describe()} ({made.view.id[:12]})"),
        ("method", _METHOD_TITLES[made.method]),
        *((name, f"{value:g}" if isinstance(value, float) else str(value)) for name, value in made.settings.items()),
    ]
    if made.onto:
        facts.append(("placed", f"{int(np.count_nonzero(made.placed)):,} rows onto map {made.onto[:12]}"))
    if made.aligned_to:
        facts.append(("aligned to", f"map {made.aligned_to[:12]}"))
    if made.resamples:
        facts.append(("ellipses", f"one standard deviation over {made.resamples} resamples of the texts"))
    facts.append(("map", made.id[:12]))
    facts.append(("made with", ", ".join(f"{name} {number}" for name, number in made.software.items())))

    trajectories = find_trajectories(rows.records)
    return Scene(
        title=rows.registry,
        subtitle=f"{len(rows):,} models, {_METHOD_TITLES[made.method]}, version {made.version[:12]}",
        row_ids=rows.row_ids,
        names=rows.labels,
        xy=made.xy,
        axes=made.axes,
        columns=map_columns(rows, scores, result.accuracy),
        neighbors=neighbors.index,
        kl=neighbors.kl,
        kl_se=neighbors.kl_se,
        edges=declared_edges(rows.records),
        trajectories=[(str(name), [int(k) for k in positions]) for name, positions in trajectories],
        ellipses=made.ellipses,
        links=[hub_link(record) for record in rows.records],
        placed=made.placed if made.placed.any() else None,
        facts=facts,
    )


def declared_edges(records: Sequence[RowRecord]) -> list[tuple[int, int, str]]:
    """Declared parent and child among rows, and how the child is related, as its card says.

    Of several rows of the parent the one with the child's weight dtype is taken, else the first.
    """
    rows_of: dict[str, list[int]] = {}
    for k, record in enumerate(records):
        rows_of.setdefault(record.identity.name, []).append(k)
    edges = []
    for child, record in enumerate(records):
        for base in record.base_models:
            parents = [k for k in rows_of.get(base, []) if records[k].identity.name != record.identity.name]
            if parents:
                same_dtype = (k for k in parents if records[k].identity.weight_dtype == record.identity.weight_dtype)
                relation = str(record.declared.get("relation") or "derived")
                edges.append((next(same_dtype, parents[0]), child, relation))
    return edges


def hub_link(record: RowRecord) -> str | None:
    """Address of a model's page on the Hub; None for a model of local files."""
    identity = record.identity
    local = str(identity.adapter["revision"]).startswith("sha256:") if identity.adapter else identity.source != "hub"
    return None if local else f"https://huggingface.co/{identity.name}"


def map_columns(
    rows: Rows | RowStream, scores: Path | str | None = None, accuracy: Sequence[float | None] = ()
) -> list[Column]:
    """Columns of rows: declared metadata, likelihood through the view, identity, and scores of a file.

    Parameters
    ----------
    rows : Rows or RowStream
    scores : Path, optional
        A table of scores as `llreg predict` takes it: models down, benchmarks across.
    accuracy : sequence of (float or None)
        Next-token accuracy of each row, where it is known.

    Returns
    -------
    list of Column
        Those that are known for at least one row; first the one that a map is coloured by at first, the first one
        with two values or more.
    """
    records = rows.records
    # Zero parameters and less have no place on a logarithmic scale.
    sizes = [float(n) if n is not None and n > 0 else None for n in (record.num_parameters for record in records)]
    mean, bits = _likelihoods(rows)
    identities = [record.identity for record in records]
    columns = [
        Column("family", "family", "category", families_of(records)),
        Column("architecture", "architecture", "category", [record.architecture or None for record in records]),
        Column("num_parameters", "parameters", "number", sizes, log=True),
        Column("created", "created", "date", [_day(record.declared.get("created")) for record in records]),
        Column("licence", "licence", "category", [record.licence or None for record in records]),
        Column("mean_log_likelihood", "mean log-likelihood", "number", _finite(mean), unit="nat/text"),
        Column("bits_per_byte", "bits per byte", "number", _finite(bits), unit="bit/byte"),
        Column("accuracy", "next-token accuracy", "number", accuracy or [None] * len(records)),
        Column("weight_dtype", "weight dtype", "category", [identity.weight_dtype for identity in identities]),
        Column(
            "quantization", "quantisation", "category", [identity.quantization or "none" for identity in identities]
        ),
        Column("contributor", "contributor", "category", [record.contributor for record in records]),
        Column("added_at", "added", "date", [_day(record.added_at) for record in records]),
    ]
    if scores is not None:
        from llreg.geometry.predict.scores import read_scores

        table = read_scores(scores)
        reserved = {*TABLE_COLUMNS, *(column.name for column in columns)}
        for task, values in zip(table.tasks, table.match(records).values.T, strict=True):
            name = f"score_{task}" if task.casefold() in reserved else task
            columns.append(Column(name, task, "number", _finite(values)))

    values_of = [{value for value in column.values if value is not None} for column in columns]
    first = next((column for column, values in zip(columns, values_of, strict=True) if len(values) > 1), None)
    known = [column for column, values in zip(columns, values_of, strict=True) if values]
    return sorted(known, key=lambda column: column is not first)  # stable: the rest keep their order


def find_column(columns: Sequence[Column], name: str) -> Column:
    """The column of a name or title.

    Raises
    ------
    InputError
        If there is none; the message lists those there are.
    """
    for column in columns:
        if name.casefold() in (column.name.casefold(), column.title.casefold()):
            return column
    raise InputError(f"no column {name!r}; there are: {', '.join(column.name for column in columns) or 'none'}")


def _likelihoods(rows: Rows | RowStream) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean log-likelihood over the scored texts of the view, nats per text, and the same as bits per byte."""
    mean, bits = np.empty(len(rows)), np.empty(len(rows))
    blocks = [(slice(0, len(rows)), rows)] if isinstance(rows, Rows) else rows.blocks()
    for block, part in blocks:
        text_weights = np.ones(len(part.texts)) if part.weights is None else part.weights
        for k, (values, design) in enumerate(zip(part.values, part.designs, strict=True), start=block.start):
            scored = ~np.isnan(values)
            weights = scored * text_weights * (1.0 if design is None else design.weights)  # (n_texts,)
            total = float(values[scored] @ weights[scored])
            mean[k] = total / weights.sum()
            bits[k] = -total / np.log(2) / (weights @ part.num_bytes)
    return mean, bits


def _finite(values: NDArray[np.float64]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _day(value: Any) -> str | None:
    """The day of a date as a card or a record holds it; None for text that is no date."""
    try:
        return date.fromisoformat(str(value)[:10]).isoformat()
    except ValueError:
        return None
