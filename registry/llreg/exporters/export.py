"""Export to a file for other tools; the table of formats, which the ending of the file chooses from.

A new format is a module with a function that writes a `Selection`, and a line in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg.atomic import check_output, check_place
from llreg.exporters.csvfile import write_csv
from llreg.exporters.graphml import write_graphml
from llreg.exporters.h5ad import write_h5ad
from llreg.exporters.newick import write_newick
from llreg.exporters.npz import write_npz
from llreg.exporters.parquet import write_parquet
from llreg.exporters.selection import Selection, select
from llreg.geometry.view.view import view_of
from llreg_schemas.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from llreg.geometry.tree.make import Method
    from llreg.geometry.view.view import AnyView
    from llreg.store.contents import Contents


@dataclass(frozen=True)
class Format:
    """A format that rows can be exported to.

    Attributes
    ----------
    endings : tuple of str
    write : callable
        Called as ``write(selection, path, progress=..., **options)``.
    option : str or None
        The option of `export` that the format takes.
    of_distances : bool
        Whether it holds distances through a view, and not the rows' values, which are raw unless a view is given.
    package : str or None
        What it needs of the extra "export".
    """

    endings: tuple[str, ...]
    write: Callable[..., None]
    option: str | None = None
    of_distances: bool = False
    package: str | None = None


FORMATS = (
    Format((".npz",), write_npz),
    Format((".csv",), write_csv, option="long"),
    Format((".parquet",), write_parquet),
    Format((".h5ad",), write_h5ad, package="anndata"),
    Format((".nwk", ".newick", ".tree"), write_newick, option="method", of_distances=True),
    Format((".graphml",), write_graphml, option="k", of_distances=True),
)
_FORMAT_OF = {ending: format_ for format_ in FORMATS for ending in format_.endings}
ENDINGS = tuple(_FORMAT_OF)


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

    Behind `Registry.export`, which describes parameters, result and errors.
    """
    path = Path(path)
    format_ = check_path(path)
    options: dict[str, Any] = {"long": long or None, "k": k, "method": method}
    options = {name: value for name, value in options.items() if value is not None}
    for name in options:
        if name != format_.option:
            endings = next(entry.endings for entry in FORMATS if entry.option == name)
            raise InputError(f"{name} goes with {', '.join(endings)}, not with {path.name}")
    if k is not None and k < 1:
        raise InputError(f"k: expected at least 1 neighbour; got {k}")
    selected_view = view_of(registry, view) if format_.of_distances or view is not None else None
    selection = select(registry, models, selected_view)
    format_.write(selection, path, progress=progress, **options)
    return selection


def check_path(path: Path) -> Format:
    """The format that a file's ending says, once it is sure that the file can be written.

    Raises
    ------
    InputError
        If its ending says no format, it is a directory, or there is no directory for it.
    MissingExtraError
        If what writes it is not installed.
    StorageError
        If its directory cannot be written to.
    """
    format_ = _FORMAT_OF.get(path.suffix.lower())
    if format_ is None:
        raise InputError(f"{path}: an export goes to a file that ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    check_place(path)
    if format_.package and find_spec(format_.package) is None:
        raise MissingExtraError(format_.package, "export")
    check_output(path)
    return format_
