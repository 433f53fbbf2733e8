"""Export to a file, in the format that its ending says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llreg.atomic import check_output, check_place
from llreg.exporters.h5ad import check_anndata
from llreg.exporters.selection import Selection, make_stamp, select
from llreg.geometry.kl.rows import load_rows
from llreg.geometry.view.view import view_of
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from llreg.geometry.tree.tree import Method
    from llreg.geometry.view.view import AnyView
    from llreg.store.contents import Contents

NEIGHBOURS = 10
VALUES = (".npz", ".csv", ".parquet", ".h5ad")
TREES = (".nwk", ".newick", ".tree")
GRAPHS = (".graphml",)
ENDINGS = (*VALUES, *TREES, *GRAPHS)


def export(
    registry: Contents,
    path: str | Path,
    models: Sequence[str] | None = None,
    *,
    view: AnyView | None = None,
    long: bool = False,
    k: int | None = None,
    method: Method | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Selection:
    """Write rows, their tree or their neighbour graph to a file for other tools.

    Parameters
    ----------
    registry : Contents
    path : str or Path
        Rows: ``.npz`` (`llreg.exporters.npz.write_npz`), ``.csv`` (`llreg.exporters.csvfile.write_csv`), ``.parquet``
        (`llreg.exporters.parquet.write_parquet`), ``.h5ad`` (`llreg.exporters.h5ad.write_h5ad`). A tree: ``.nwk``,
        ``.newick``, ``.tree``. A graph of nearest neighbours: ``.graphml`` (`llreg.exporters.graphml.write_graphml`).
    models : sequence of str, optional
        Which rows, as in `Contents.find`; all by default.
    view : View, mapping, path or "default", optional
        A view, or the registry's own. By default rows are written raw, and distances of trees and graphs are through
        the registry's own view.
    long : bool
        CSV with a line a value.
    k : int, optional
        Neighbours of each row in a graph; 10 by default.
    method : {"average", "ward", "nj"}, optional
        Of a tree, as in `llreg.geometry.tree.tree.make_tree`; "average" by default.
    progress : callable, optional
        Called with (done, rows).

    Returns
    -------
    Selection
        What was written: its rows, texts, version and view.

    Raises
    ------
    InputError
        If the ending says no format, an option does not go with it, the file cannot be there, or as in `select`.
    MissingExtraError
        If anndata is needed and not installed.
    NotFoundError, StorageError
    """
    path = Path(path)
    check_path(path)
    _check_options(path, long=long, k=k, method=method)
    ending = path.suffix.lower()
    seen = None if view is None and ending in VALUES else view_of(registry, view)
    selection = select(registry, models, seen)
    if ending in TREES:
        _write_tree(registry, selection, path, method or "average")
    elif ending in GRAPHS:
        _write_graph(registry, selection, path, k or NEIGHBOURS, progress)
    else:
        _write_values(selection, path, long, progress)
    return selection


def check_path(path: Path) -> None:
    """Find out before the work that a file cannot be written.

    Raises
    ------
    InputError
        If its ending says no format, it is a directory, or there is no directory for it.
    MissingExtraError
        If what writes it is not installed.
    StorageError
        If its directory cannot be written to.
    """
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"{path}: an export goes to a file that ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    check_place(path)
    if path.suffix.lower() == ".h5ad":
        check_anndata()
    check_output(path)


def _check_options(path: Path, *, long: bool, k: int | None, method: str | None) -> None:
    ending = path.suffix.lower()
    for name, given, endings in (
        ("long", long, (".csv",)),
        ("k", k is not None, GRAPHS),
        ("method", method is not None, TREES),
    ):
        if given and ending not in endings:
            raise InputError(f"{name} goes with {', '.join(endings)}, not with {path.name}")
    if k is not None and k < 1:
        raise InputError(f"k: expected at least 1 neighbour; got {k}")


def _write_values(selection: Selection, path: Path, long: bool, progress: Callable[[int, int], None] | None) -> None:
    from llreg.exporters.csvfile import write_csv
    from llreg.exporters.h5ad import write_h5ad
    from llreg.exporters.npz import write_npz
    from llreg.exporters.parquet import write_parquet

    ending = path.suffix.lower()
    if ending == ".csv":
        write_csv(selection, path, long=long, progress=progress)
    else:
        {".npz": write_npz, ".parquet": write_parquet, ".h5ad": write_h5ad}[ending](selection, path, progress=progress)


def _write_tree(registry: Contents, selection: Selection, path: Path, method: Method) -> None:
    from llreg.exporters.newick import write_newick
    from llreg.geometry.tree.tree import make_tree

    tree = make_tree(load_rows(registry, selection.row_ids, selection.view or view_of(registry)), method=method)
    write_newick(tree, path, {**_stamp(selection, "kl"), "method": method})


def _write_graph(
    registry: Contents, selection: Selection, path: Path, k: int, progress: Callable[[int, int], None] | None
) -> None:
    from llreg.exporters.graphml import write_graphml

    rows = load_rows(registry, selection.row_ids, selection.view or view_of(registry))
    stamp = {"registry": registry.name, **_stamp(selection, "kl"), "unit": "bit/byte"}
    write_graphml(rows, selection.columns, path, stamp, k=k, progress=progress)


def _stamp(selection: Selection, values: str) -> dict[str, str]:
    return make_stamp(selection.registry, selection.version, selection.view, values)
