"""Export of a tree as Newick that says what it is of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llreg.atomic import write_output
from llreg.geometry.tree.make import make_tree

if TYPE_CHECKING:
    from llreg.exporters.selection import Selection
    from llreg.geometry.tree.make import Method


def write_newick(
    selection: Selection,
    path: Path,
    *,
    method: Method = "average",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a tree of the rows as `llreg tree` does, with a stamp.

    The stamp is a comment at the root in the New Hampshire X form, ``[&&NHX:version=…:view=…]``: programs that know the
    form show it, others skip it as the comment it is.

    Parameters
    ----------
    selection : Selection
        At least two rows.
    path : Path
    method : {"average", "ward", "nj"}
    progress : callable, optional
        Not called: a tree is made in one step.

    Raises
    ------
    InputError
        If there are fewer than two rows, or two share no texts.
    StorageError
        If it cannot be written.
    """
    tree = make_tree(selection.load(), method=method)
    stamp = {**selection.make_stamp("kl"), "method": method}
    comment = "".join(f":{name}={value}" for name, value in stamp.items())
    newick = tree.newick().removesuffix(";\n")
    write_output(path, f"{newick}[&&NHX{comment}];\n".encode())
