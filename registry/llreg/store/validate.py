"""The one validator of rows and registries; `validate`, and later push and review, call it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llreg.settings import SHARD_ROWS
from llreg.store.annotations import read_annotations
from llreg.store.layout import STORE
from llreg.store.rowcheck import check_left_out, refuse, suffixes
from llreg.store.rowfile import Row, digest_in_name
from llreg.store.subsets import list_subsets, read_subset
from llreg_schemas import check
from llreg_schemas.errors import InvalidFileError, NotFoundError

if TYPE_CHECKING:
    from llreg.store.contents import Contents


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file.

    Attributes
    ----------
    file : str
        Relative to the registry.
    message : str
        Field, what was expected and what came.
    """

    file: str
    message: str


def validate(
    registry: Contents, paths: Sequence[Path] = (), *, progress: Callable[[int, int], None] | None = None
) -> list[Problem]:
    """Check a registry's files, or only the given row files.

    Parameters
    ----------
    registry : Contents
    paths : sequence of Path
        Row files; by default every file of the registry.
    progress : callable, optional
        Called with (files checked, files in all).

    Returns
    -------
    list of Problem
        Empty if all is well. It raises nothing for a bad file.
    """
    files = [Path(path).resolve() for path in paths] or registry.folder.below(registry.path / "rows")
    problems: list[Problem] = []
    seen: dict[str, Path] = {}
    for done, path in enumerate(files, 1):
        problems += _check_row_file(registry, path, seen)
        if progress:
            progress(done, len(files))
    if not paths:
        problems += _check_documents(registry)
    return problems


def _check_row_file(registry: Contents, path: Path, seen: dict[str, Path]) -> list[Problem]:
    label = registry.label(path)
    inside = path.is_relative_to(registry.path / "rows")
    if not (registry.folder.is_file(path) if inside else path.is_file() and not path.is_symlink()):
        return [Problem(label, "expected a regular file")]
    if inside and digest_in_name(path.name) is None:
        return [Problem(label, "expected a row file, rows/<hh>/<name>-<digest>.zarr.zip; remove it")]
    try:
        if inside:
            row = registry.read_file(path)
        else:
            from llreg.store.rowfile import read_row

            row = read_row(path, registry.num_texts, label=label)
            registry.check_row(row, label)
        record = row.record
        _check_subset(registry, row, label)
    except InvalidFileError as error:
        return [_problem(error)]
    other = seen.setdefault(record.row_id, path)
    if other != path:
        return [Problem(label, f"has the row id {record.row_id} of {registry.label(other)}")]
    return []


def _check_subset(registry: Contents, row: Row, label: str) -> None:
    """A row of a text subset has values on its texts only, and names a subset that is here."""
    import numpy as np

    record = row.record
    if record.identity.subset is None:
        return
    try:
        document = read_subset(registry, record.identity.subset)
    except InvalidFileError as error:
        raise InvalidFileError(
            label, f"expected a sound subset in this registry; {error}", field="identity.subset"
        ) from error
    outside = np.ones(registry.num_texts, dtype=bool)
    outside[document["texts"]] = False
    for suffix in suffixes(row):
        missing = np.isnan(row.arrays[f"log_likelihood{suffix}"])
        refuse(outside & ~missing, label, f"log_likelihood{suffix}", "NaN outside the row's text subset", ~missing)
        inside = int((missing & ~outside).sum())
        check_left_out(record.provenance, suffix, inside, "as many as are NaN in its text subset", label)


def _check_documents(registry: Contents) -> list[Problem]:
    """registry.json was checked on opening; here the texts, retractions, versions, subsets and the build."""
    problems = []
    checks: list[Callable[[], object]] = [
        lambda: registry.texts,
        lambda: registry.recipe,
        registry.retractions,
        registry.versions,
        lambda: list_subsets(registry),
        lambda: read_annotations(registry),
        lambda: _check_references(registry),
        lambda: _check_store(registry),
    ]
    for run in checks:
        try:
            run()
        except InvalidFileError as error:
            problems.append(_problem(error))
        except NotFoundError as error:
            problems.append(Problem("registry", str(error)))
    return problems


def _check_references(registry: Contents) -> None:
    there = set(registry.row_files()) | set(registry.store.digests())
    for digest in registry.retractions():
        if digest not in there:
            raise InvalidFileError(
                f"retractions/{digest}.json", "expected a row that is here; it is not", field="digest"
            )
    for manifest in registry.versions():
        missing = [digest for digest in manifest["rows"] if digest not in there]
        if missing:
            raise InvalidFileError(
                f"versions/{manifest['tag']}.json", f"expected rows that are here; {len(missing)} are not", field="rows"
            )


def _check_store(registry: Contents) -> None:
    """Rows in the store must have the digest they claim: a build is made by llreg, but may come from anywhere."""
    records = registry.store.records()
    files = registry.row_files()
    for start in range(0, len(records), SHARD_ROWS):
        batch = records[start : start + SHARD_ROWS]
        intact = registry.store.intact_rows(batch)
        for record in batch:
            check("row", record.to_json(), f"{STORE}: {record.row_id}")
            path = files.get(record.digest)
            if path and registry.is_sound(path) and registry.file_record(path) != record:
                raise InvalidFileError(
                    f"{STORE}: {record.row_id}",
                    f"expected the record in {registry.label(path)}; make it again: llreg build",
                )
            if record.digest not in intact:
                raise InvalidFileError(
                    f"{STORE}: {record.row_id}", "expected values with the row's digest; make it again: llreg build"
                )
            _check_subset(registry, intact[record.digest], f"{STORE}: {record.row_id}")


def _problem(error: InvalidFileError) -> Problem:
    return Problem(error.file, f"{error.field}: {error.problem}" if error.field else error.problem)
