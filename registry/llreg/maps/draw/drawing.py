"""What figures share: a style of their own, and bytes that do not change from day to day."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg.atomic import output_file
from llreg_schemas.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_ENDINGS = (".png", ".svg", ".pdf")
# No dates and no random ids: the same rows give the same bytes.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "llreg",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
}


@contextmanager
def style(**more: Any) -> Iterator[None]:
    """Matplotlib's settings inside the block: ours and nothing of the user's that would change a figure.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("matplotlib", "map") from error
    with matplotlib.rc_context(_STYLE | more), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)  # a box is drawn
        yield


def save(figure: Figure, path: Path, *, dpi: float, **options: Any) -> None:
    """Write a figure whole or not at all; its format is the path's ending.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    ending = path.suffix.lower()
    with output_file(path) as temp:
        figure.savefig(temp, format=ending[1:], dpi=dpi, metadata=_METADATA[ending], **options)
