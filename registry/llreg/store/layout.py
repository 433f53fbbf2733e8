"""Names of a registry's files and directories, and where a registry is looked for."""

from __future__ import annotations

from pathlib import Path

from llreg.atomic import STATE

# Written when the registry is made
CONFIG, TEXTS, RECIPE = "registry.json", "texts.parquet", "recipe.json"
# Grown by its users
ROWS, RETRACTIONS, VERSIONS, SUBSETS, ANNOTATIONS = "rows", "retractions", "versions", "subsets", "annotations"
# Derived from the rows
STORE, TABLE, CARD = "store.zarr", "models.parquet", "README.md"
BUILD = (STORE, TABLE, CARD)
# Of this machine only, never published
REMOTE = f"{STATE}/remote.json"  # where the registry was pulled from
RUNS = f"{STATE}/runs"  # journals of models that are being scored
KEPT = f"{STATE}/kept"  # what the build held of fine rows that it lost, without their segments
COPY = f"{STATE}/texts.parquet"  # the whole text set, where it must not be published
PARTIAL = f"{STATE}/texts.partial"  # state of a text set that is being rebuilt


def retraction_file(digest: str) -> str:
    """Path of a row's retraction in its registry."""
    return f"{RETRACTIONS}/{digest}.json"


def version_file(tag: str) -> str:
    """Path of a named version's manifest in its registry."""
    return f"{VERSIONS}/{tag}.json"


def subset_file(subset: str) -> str:
    """Path of a text subset in its registry, by its id."""
    return f"{SUBSETS}/{subset}.json"


def annotation_file(name: str) -> str:
    """Path of a table of annotations in its registry."""
    return f"{ANNOTATIONS}/{name}.parquet"


def enclosing() -> list[Path]:
    """The working directory and those around it, innermost first."""
    try:
        directory = Path.cwd()
    except FileNotFoundError:  # the working directory was removed
        return []
    return [directory, *directory.parents]
