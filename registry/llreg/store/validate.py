"""The one validator of rows and registries; `validate`, and later push and review, call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg.settings import SHARD_ROWS
from llreg.store.annotations import read_annotations
from llreg.store.arrays import is_count, row_variables
from llreg.store.rowfile import Row, digest_in_name
from llreg.store.subsets import list_subsets, read_subset
from llreg.store.zarr_write import STORE
from llreg_schemas import check
from llreg_schemas.errors import InvalidFileError, NotFoundError
from llreg_schemas.records import PAIRS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llreg.registry import Registry

_TOKENS_PER_BYTE = 16  # Unicode normalisation can turn one 3-byte character into 33 bytes
_NATS_PER_TOKEN = 10_000  # far beyond what a model can lose on one token
_EXTRA_TOKENS = 16  # special tokens around a text


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


def check_values(row: Row, info: Mapping[str, Any], num_bytes: NDArray[np.float64], shown: str) -> None:
    """Check a row's values, counts and identity against the registry it is in.

    Parameters
    ----------
    row : Row
    info : mapping
        registry.json.
    num_bytes : float64 array of shape (n_texts,)
        UTF-8 bytes of the texts.
    shown : str
        Name of the file in messages.

    Raises
    ------
    InvalidFileError
        If the row is of another text set or protocol, lacks an array, or a value or count is impossible.
    """
    import numpy as np

    identity = row.record.identity
    for field, expected in (("text_set", info["text_set"]["id"]), ("protocol", info["protocol"]["id"])):
        got = getattr(identity, field)
        if got != expected:
            raise InvalidFileError(
                shown,
                f"expected this registry's {expected[:12]}…; got {got[:12]}…: such rows are not comparable",
                field=f"identity.{field}",
            )
    expected_arrays = row_variables(pairs=info["text_set"].get("kind") == PAIRS)
    if tuple(row.arrays) != expected_arrays:
        raise InvalidFileError(
            shown, f"expected the arrays {', '.join(expected_arrays)}; got {', '.join(row.arrays)}", field="zarr.json"
        )
    if np.isnan(row.log_likelihood).all():
        raise InvalidFileError(shown, "expected at least one scored text; all are NaN", field="log_likelihood")
    for suffix in _suffixes(row):
        _check_arrays(row, suffix, num_bytes, shown)
        _check_counts(row, suffix, shown)


def _suffixes(row: Row) -> list[str]:
    """Endings of the names of a row's pairs of arrays, and of the counts in its record: "" and, of pairs, "_response"."""
    return [name.removeprefix("num_tokens") for name in row.arrays if is_count(name)]


def _check_arrays(row: Row, suffix: str, num_bytes: NDArray[np.float64], shown: str) -> None:
    import numpy as np

    named, counted = f"log_likelihood{suffix}", f"num_tokens{suffix}"
    values, tokens = row.arrays[named], row.arrays[counted]
    missing = np.isnan(values)
    _refuse(np.isinf(values), shown, named, "a finite number or NaN", values)
    _refuse(values > 0, shown, named, "at most 0 nats (a probability is at most 1)", values)
    limit = _TOKENS_PER_BYTE * num_bytes + _EXTRA_TOKENS
    if row.record.identity.source == "imported" and not tokens.any():  # unknown
        possible = limit
    else:
        _refuse(tokens < 0, shown, counted, "at least 0", tokens)
        _refuse(missing != (tokens == 0), shown, counted, f"0 exactly where {named} is NaN", tokens)
        _refuse(tokens > limit, shown, counted, "no more tokens than the text can hold", tokens)
        possible = tokens.astype(np.float64)
    _refuse(
        values < -_NATS_PER_TOKEN * possible,
        shown,
        named,
        f"at least {-_NATS_PER_TOKEN} nats a token",
        values,
    )


def _refuse(wrong: Any, shown: str, field: str, expected: str, values: Any) -> None:
    if wrong.any():
        text = int(wrong.argmax())
        raise InvalidFileError(shown, f"expected {expected}; got {values[text]} at text {text}", field=field)


def _check_counts(row: Row, suffix: str, shown: str) -> None:
    import numpy as np

    provenance, counted = row.record.provenance, f"num_tokens{suffix}"
    total, told = int(row.arrays[counted].sum(dtype=np.int64)), provenance.get(f"tokens{suffix}")
    if told != total:
        raise InvalidFileError(
            shown,
            f"expected {total:,}, the sum of {counted}; got {'nothing' if told is None else f'{told:,}'}",
            field=f"provenance.tokens{suffix}",
        )
    reasons = _left_out(provenance, suffix)
    missing = int(np.isnan(row.arrays[f"log_likelihood{suffix}"]).sum())
    if reasons > missing:
        raise InvalidFileError(
            shown,
            f"expected at most {missing:,} texts over the context, non-finite or unscored, as many as are NaN; "
            f"got {reasons:,}",
            field="provenance",
        )


def _left_out(provenance: Mapping[str, Any], suffix: str) -> int:
    """Texts that a record gives a reason for having no value of."""
    return sum(provenance.get(f"{name}{suffix}", 0) for name in ("over_context", "non_finite", "unscored"))


def validate(
    registry: Registry, paths: Sequence[Path] = (), *, progress: Callable[[int, int], None] | None = None
) -> list[Problem]:
    """Check a registry's files, or only the given row files.

    Parameters
    ----------
    registry : Registry
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


def _check_row_file(registry: Registry, path: Path, seen: dict[str, Path]) -> list[Problem]:
    shown = registry.shown(path)
    inside = path.is_relative_to(registry.path / "rows")
    if not (registry.folder.is_file(path) if inside else path.is_file() and not path.is_symlink()):
        return [Problem(shown, "expected a regular file")]
    if inside and digest_in_name(path.name) is None:
        return [Problem(shown, "expected a row file, rows/<hh>/<name>-<digest>.zarr.zip; remove it")]
    try:
        if inside:
            row = registry.read_file(path)
        else:
            from llreg.store.rowfile import read_row

            row = read_row(path, registry.num_texts, shown=shown)
            registry.check_row(row, shown)
        record = row.record
        _check_subset(registry, row, shown)
    except InvalidFileError as error:
        return [_problem(error)]
    other = seen.setdefault(record.row_id, path)
    if other != path:
        return [Problem(shown, f"has the row id {record.row_id} of {registry.shown(other)}")]
    return []


def _check_subset(registry: Registry, row: Row, shown: str) -> None:
    """A row of a text subset has values on its texts only, and names a subset that is here."""
    import numpy as np

    record = row.record
    if record.identity.subset is None:
        return
    try:
        document = read_subset(registry, record.identity.subset)
    except InvalidFileError as error:
        raise InvalidFileError(
            shown, f"expected a sound subset in this registry; {error}", field="identity.subset"
        ) from error
    outside = np.ones(registry.num_texts, dtype=bool)
    outside[document["texts"]] = False
    for suffix in _suffixes(row):
        missing = np.isnan(row.arrays[f"log_likelihood{suffix}"])
        _refuse(outside & ~missing, shown, f"log_likelihood{suffix}", "NaN outside the row's text subset", ~missing)
        reasons, there = _left_out(record.provenance, suffix), int((missing & ~outside).sum())
        if reasons > there:
            raise InvalidFileError(
                shown,
                f"expected at most {there:,} texts over the context, non-finite or unscored, as many as are NaN in its "
                f"text subset; got {reasons:,}",
                field="provenance",
            )


def _check_documents(registry: Registry) -> list[Problem]:
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


def _check_references(registry: Registry) -> None:
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


def _check_store(registry: Registry) -> None:
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
                    f"expected the record in {registry.shown(path)}; make it again: llreg build",
                )
            if record.digest not in intact:
                raise InvalidFileError(
                    f"{STORE}: {record.row_id}", "expected values with the row's digest; make it again: llreg build"
                )
            _check_subset(registry, intact[record.digest], f"{STORE}: {record.row_id}")


def _problem(error: InvalidFileError) -> Problem:
    return Problem(error.file, f"{error.field}: {error.problem}" if error.field else error.problem)
