"""The one validator of rows and registries; `validate`, and later push and review, call it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llreg.settings import SHARD_ROWS
from llreg.store.annotations import read_annotations
from llreg.store.arrays import FINE_VARIABLES
from llreg.store.fine import stored_row
from llreg.store.layout import ROWS, STORE, retraction_file, version_file
from llreg.store.rowcheck import check_left_out, refuse, suffixes
from llreg.store.rowfile import Row, digest_in_name, read_row
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

    Behind `Registry.validate`, which describes parameters, result and errors.
    """
    files = [Path(path).resolve() for path in paths] or registry.folder.below(registry.path / ROWS)
    problems: list[Problem] = []
    files_by_id: dict[str, Path] = {}
    # Every file, not every record: what cannot be read has no record.
    for count, path in enumerate(files, 1):
        label = registry.label(path)
        try:
            row_id = _check_row_file(registry, path).record.row_id
        except InvalidFileError as error:
            problems.append(_problem(error))
        else:
            first = files_by_id.setdefault(row_id, path)
            if first != path:
                problems.append(Problem(label, f"has the row id {row_id} of {registry.label(first)}"))
        if progress:
            progress(count, len(files))
    # Only the given files were asked about.
    if paths:
        return problems
    # registry.json was checked on opening.
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


def _check_row_file(registry: Contents, path: Path) -> Row:
    """One row file, in the registry or from elsewhere."""
    label = registry.label(path)
    is_inside = path.is_relative_to(registry.path / ROWS)
    if not (registry.folder.is_file(path) if is_inside else path.is_file() and not path.is_symlink()):
        raise InvalidFileError(label, "expected a regular file")
    if is_inside and digest_in_name(path.name) is None:
        raise InvalidFileError(label, "expected a row file, rows/<hh>/<name>-<digest>.zarr.zip; remove it")
    if is_inside:
        row = registry.read_file(path)
    else:
        row = read_row(path, registry.num_texts, registry.info.num_segments, label=label)
        registry.check_row(row, label)
    _check_subset(registry, row, label)
    return row


def _check_subset(registry: Contents, row: Row, label: str) -> None:
    """A row of a text subset has values on its texts only, and names a subset that is here."""
    import numpy as np

    subset = row.record.identity.subset
    if subset is None:
        return
    try:
        texts = read_subset(registry, subset)["texts"]
    except InvalidFileError as error:
        raise InvalidFileError(
            label, f"expected a sound subset in this registry; {error}", field="identity.subset"
        ) from error
    # (n_texts,), True where the row's sample has no text.
    outside = np.ones(registry.num_texts, dtype=bool)
    outside[texts] = False
    for suffix in suffixes(row):
        missing = np.isnan(row.arrays[f"log_likelihood{suffix}"])  # (n_texts,)
        refuse(outside & ~missing, label, f"log_likelihood{suffix}", "NaN outside the row's text subset", ~missing)
        num_missing = int((missing & ~outside).sum())
        check_left_out(row.record.provenance, suffix, num_missing, "as many as are NaN in its text subset", label)


def _check_references(registry: Contents) -> None:
    """Retractions and versions name rows that are here."""
    digests = set(registry.row_files()) | set(registry.store.digests())
    for digest in registry.retractions():
        if digest not in digests:
            raise InvalidFileError(retraction_file(digest), "expected a row that is here; it is not", field="digest")
    for manifest in registry.versions():
        num_missing = len(set(manifest["rows"]) - digests)
        if num_missing:
            raise InvalidFileError(
                version_file(manifest["tag"]), f"expected rows that are here; {num_missing} are not", field="rows"
            )


def _check_store(registry: Contents) -> None:
    """Rows in the store must have the digest they claim: a build is made by llreg, but may come from anywhere."""
    records = registry.store.records()
    files = registry.row_files()
    for start in range(0, len(records), SHARD_ROWS):
        batch = records[start : start + SHARD_ROWS]
        intact = registry.store.intact_rows(batch)
        for record in batch:
            label = f"{STORE}: {record.row_id}"
            check("row", record.to_json(), label)
            path = files.get(record.digest)
            # The file is the original, the build a copy.
            if path and registry.is_sound(path) and registry.file_record(path) != record:
                raise InvalidFileError(
                    label, f"expected the record in {registry.label(path)}; make it again: llreg build"
                )
            if record.digest not in intact:
                raise InvalidFileError(label, "expected values with the row's digest; make it again: llreg build")
            if path and record.is_fine and registry.is_sound(path):
                _check_coordinates(registry, intact[record.digest], registry.read_file(path), label)
            _check_subset(registry, intact[record.digest], label)


def _check_coordinates(registry: Contents, stored: Row, original: Row, label: str) -> None:
    """What the store has of a row's segments must follow from them: the digest covers the segments alone."""
    import numpy as np

    expected = stored_row(original, registry.fine_map).arrays
    for name in FINE_VARIABLES:
        if name in expected and not np.array_equal(stored.arrays[name], expected[name], equal_nan=True):
            raise InvalidFileError(
                label, "expected those of the row's segments; make it again: llreg build", field=name
            )


def _problem(error: InvalidFileError) -> Problem:
    return Problem(error.file, f"{error.field}: {error.problem}" if error.field else error.problem)
