"""Export of a tree as Newick that says what it is of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llreg.atomic import write_output

if TYPE_CHECKING:
    from llreg.geometry.tree.tree import Tree


def write_newick(tree: Tree, path: Path, stamp: Mapping[str, str]) -> None:
    """Write a tree as `llreg tree` does, with a stamp.

    The stamp is a comment at the root in the New Hampshire X form, ``[&&NHX:version=…:view=…]``: programs that know the
    form show it, others skip it as the comment it is.

    Parameters
    ----------
    tree : Tree
    path : Path
    stamp : mapping of str to str
        Values without ``[]:;=,()`` and blanks.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    comment = "".join(f":{name}={value}" for name, value in stamp.items())
    plain = tree.newick().removesuffix(";\n")
    write_output(path, f"{plain}[&&NHX{comment}];\n".encode())
