"""Names of a registry's files and directories, and where a registry is looked for."""

from __future__ import annotations

from pathlib import Path

CONFIG, TEXTS, RECIPE = "registry.json", "texts.parquet", "recipe.json"
COPY = ".llreg/texts.parquet"  # the whole text set, where it must not be published
STORE, TABLE, CARD = "store.zarr", "models.parquet", "README.md"
BUILD = (STORE, TABLE, CARD)  # derived from the rows
ROWS, RETRACTIONS, VERSIONS, SUBSETS, ANNOTATIONS = "rows", "retractions", "versions", "subsets", "annotations"


def enclosing() -> list[Path]:
    """The working directory and those around it, innermost first."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the working directory was removed
        return []
    return [here, *here.parents]
