"""The matrices that the authors of P1 and P2 published (github.com/shimo-lab/modelmap), as rows and annotations.

``raw_log-likelihood_1018.pkl`` is a dict of model names and arrays of 10,000 log-likelihoods; ``model-data-1018.pkl``
a list of dicts with metadata, benchmark scores, and log-likelihoods clipped at the 2 % quantile of all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg import settings
from llreg.importers.bounded import read_bounded
from llreg.importers.rows import ImportResult, Measurement, Origin, import_rows, make_declared, order_note, refuse_twins
from llreg.importers.unpickle import read_pickle
from llreg.names import is_name
from llreg.store.annotations import to_table, write_annotations
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from llreg.store.contents import Contents

METADATA, SCORES = "modelmap-metadata", "modelmap-scores"
PUBLISHED = {"shape": (1018, 10000), "minimum": -20503.7119140625, "quantile": -1412.3424912643432}
_TEXT_SETS = ("pile-10k", "texts-10k-pile")  # the preset, and the authors' file
_DTYPE = "float16"  # of the weights: the default of the authors' script
_RAW, _CLIPPED, _SCORE = "raw_log-likelihood-10k", "log-likelihood-10k", "score_"
_NUMBER = (int, float)
_COLUMNS: dict[str, tuple[type, ...]] = {
    "model_type": (str,),
    "model_size": _NUMBER,
    "created_at": (str,),
    "downloads": _NUMBER,
    "tags": (list,),
    "mean_logp": _NUMBER,
}
_BILLION, _MAX_BILLIONS = 1e9, 1e5


def import_modelmap(
    registry: Contents,
    path: Path,
    *,
    metadata: Path | None = None,
    names: Sequence[str] | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImportResult:
    """Import the authors' published matrices.

    Parameters
    ----------
    registry : Contents
        On the text set pile-10k.
    path : Path
        Pickle of raw log-likelihoods, or of metadata.
    metadata : Path, optional
        Pickle of metadata, for what new rows declare, and for the annotations "modelmap-metadata" and
        "modelmap-scores".
    names : sequence of str, optional
        Only these models.
    force : bool
        Import into a registry on another text set, too.
    dry_run : bool
        Check everything and write nothing.
    progress : callable, optional
        Called with (rows written, rows to write).

    Raises
    ------
    InputError
        If a file is refused, damaged or of another form, values are clipped or not one a text, or the text set is
        another; nothing was written.
    StorageError
    """
    registry.check_changeable("import into it")
    settings.check_contributor()
    published = _read(path, metadata, names)
    tables = _tables(published.entries)
    result = _import_values(registry, published, str(path), force=force, dry_run=dry_run, progress=progress)
    if not dry_run:
        for name, table in tables.items():
            write_annotations(registry, name, to_table(table))
    return replace(result, annotations=list(tables))


@dataclass(frozen=True)
class _Published:
    """Raw values by model, metadata, and the file that the values are from."""

    values: dict[str, Any]
    entries: list[dict[str, Any]]
    origin: Origin


def _read(path: Path, metadata: Path | None, names: Sequence[str] | None) -> _Published:
    data = read_bounded(path)
    found, origin = read_pickle(data, str(path)), Origin.of("modelmap", path, data)
    del data  # large
    entries = [] if metadata is None else _read_metadata(metadata)
    if not isinstance(found, list):
        return _only(_Published(_check_matrix(found, str(path)), entries, origin), names, str(path))
    if metadata is not None:
        raise InputError(f"{path}: expected a dict of log-likelihoods; it holds metadata, as {metadata} does")
    entries = _check_metadata(found, str(path))
    return _only(_Published(_raw_values(entries), entries, origin), names, str(path))


def _import_values(
    registry: Contents,
    published: _Published,
    shown: str,
    *,
    force: bool,
    dry_run: bool,
    progress: Callable[[int, int], None] | None,
) -> ImportResult:
    if not published.values:
        note = (
            f"no rows: {_CLIPPED} is clipped at the 2 % quantile, what lay below is lost, and rows are stored raw; "
            "import raw_log-likelihood_1018.pkl for rows"
        )
        return ImportResult(published.origin.file, [], [], [], [], (0, 0), None, None, dry_run, [note])
    if not force:
        _check_text_set(registry)
    measurements = _measurements(published.values, published.entries, shown)
    result = import_rows(registry, measurements, published.origin, dry_run=dry_run, progress=progress)
    return replace(result, notes=[*result.notes, *_compare(result), order_note(registry)])


def read_names(path: Path) -> list[str]:
    """Names of models from a file: one a line, as a YAML list may have them; # begins a comment.

    Raises
    ------
    InputError
        If it is not text, or names none.
    """
    try:
        lines = read_bounded(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text, a model a line") from error
    names = [line.partition("#")[0].strip().removeprefix("- ").strip(" '\"") for line in lines]
    found = [name for name in names if name]
    if not found:
        raise InputError(f"{path}: expected a model a line; it names none")
    return found


def _check_matrix(found: Any, shown: str) -> dict[str, Any]:
    if not isinstance(found, dict) or not found or not all(_is_vector(value) for value in found.values()):
        raise InputError(
            f"{shown}: expected a dict of model names and arrays of log-likelihoods, or a list of dicts with "
            f"model_name; got {_describe(found)}"
        )
    return found


def _describe(found: Any) -> str:
    kind = type(found).__name__
    if isinstance(found, dict) and found:
        key, value = next((item for item in found.items() if not _is_vector(item[1])), next(iter(found.items())))
        return f"a dict with {type(value).__name__} for {key[:80]!r}"
    return f"an empty {kind}" if isinstance(found, (dict, list)) and not found else f"a {kind}"


def _is_vector(value: Any) -> bool:
    return isinstance(value, (np.ndarray, list))


def _read_metadata(path: Path) -> list[dict[str, Any]]:
    return _check_metadata(read_pickle(read_bounded(path), str(path)), str(path))


def _check_metadata(found: Any, shown: str) -> list[dict[str, Any]]:
    """Metadata as a list of dicts, each with a usable name and values of the kinds that they should have."""
    if not isinstance(found, list) or not found or not all(isinstance(entry, dict) for entry in found):
        raise InputError(f"{shown}: expected a list of dicts with model_name; got {_describe(found)}")
    for number, entry in enumerate(found, 1):
        place, name = f"{shown}: entry {number}", entry.get("model_name")
        if not isinstance(name, str) or not is_name(name):
            raise InputError(f"{place}: expected a model's name in model_name; got {str(name)[:100]!r}")
        for key, value in entry.items():
            kinds = _NUMBER if key.startswith(_SCORE) else _COLUMNS.get(key)
            if kinds and value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
                raise InputError(f"{place}, {name}: expected {kinds[0].__name__} in {key}; got {type(value).__name__}")
        if not all(isinstance(tag, str) for tag in entry.get("tags") or []):
            raise InputError(f"{place}, {name}: expected text in tags")
    refuse_twins([entry["model_name"] for entry in found], shown)
    return [{key: value for key, value in entry.items() if key != _CLIPPED} for entry in found]


def _raw_values(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Raw log-likelihoods, which some editions of the metadata hold beside the clipped ones."""
    return {entry["model_name"]: entry[_RAW] for entry in entries if _is_vector(entry.get(_RAW))}


def _only(published: _Published, names: Sequence[str] | None, shown: str) -> _Published:
    """What is asked for."""
    if names is None:
        return published
    known = set(published.values) | {entry["model_name"] for entry in published.entries}
    missing = [name for name in names if name not in known]
    if missing:
        more = f" and {len(missing) - 5:,} others" if len(missing) > 5 else ""
        raise InputError(f"{shown}: expected the models in --names; it has no {', '.join(missing[:5])}{more}")
    wanted = set(names)
    return _Published(
        {name: vector for name, vector in published.values.items() if name in wanted},
        [entry for entry in published.entries if entry["model_name"] in wanted],
        published.origin,
    )


def _measurements(values: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], shown: str) -> list[Measurement]:
    known = {entry["model_name"]: entry for entry in entries}
    return [
        Measurement(
            model=name,
            log_likelihood=_vector(vector, f"{shown}: {name}"),
            place=f"{shown}: {name}",
            weight_dtype=_DTYPE,
            declared=_declared(known.get(name, {})),
        )
        for name, vector in values.items()
    ]


def _vector(value: Any, place: str) -> np.ndarray[Any, Any]:
    if isinstance(value, np.ndarray):
        return value
    if not all(isinstance(number, _NUMBER) and not isinstance(number, bool) for number in value):
        raise InputError(f"{place}: expected a list of numbers")
    return np.array(value, dtype=np.float64)


def _declared(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What the model's card said when the authors read it; the model's type is a family, not an architecture."""
    tags = entry.get("tags") or []
    bases, relation = _base_models(tags)
    size, downloads = _finite(entry.get("model_size")), _finite(entry.get("downloads"))
    return make_declared(
        base_model=bases,
        relation=relation,
        licence=next((tag.partition(":")[2] for tag in tags if tag.startswith("license:")), None),
        num_parameters=round(size * _BILLION) if size is not None and 0 < size < _MAX_BILLIONS else None,
        created=entry.get("created_at"),
        downloads=None if downloads is None else int(downloads),
        tags=tags,
    )


def _base_models(tags: Sequence[str]) -> tuple[list[str], str | None]:
    """Base models in tags such as base_model:org/name and base_model:finetune:org/name."""
    bases: list[str] = []
    relation = None
    for tag in tags:
        kind, _, rest = tag.partition(":")
        if kind != "base_model":
            continue
        first, colon, name = rest.partition(":")
        relation = first if colon else relation
        base = name if colon else first
        if base not in bases:
            bases.append(base)
    return bases, relation


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, _NUMBER) and math.isfinite(value) else None


def _tables(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """Columns of the annotations: metadata, and scores with the families that `llreg predict` splits by."""
    if not entries:
        return {}
    models = [entry["model_name"] for entry in entries]
    columns = {key: [entry.get(key) for entry in entries] for key in _COLUMNS}
    columns["tags"] = [None if tags is None else ", ".join(tags) for tags in columns["tags"]]
    tables = {METADATA: {"model": models, **{key: c for key, c in columns.items() if set(c) != {None}}}}
    tasks = dict.fromkeys(key for entry in entries for key in entry if key.startswith(_SCORE))
    if tasks:
        scores = {key: [_float(entry.get(key)) for entry in entries] for key in tasks}
        tables[SCORES] = {"model": models, "model_type": columns["model_type"], **scores}
    return tables


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _check_text_set(registry: Contents) -> None:
    name = registry.info.text_set.name
    if name in _TEXT_SETS or _recipe_name(registry) in _TEXT_SETS:
        return
    raise InputError(
        f"these log-likelihoods are of the paper's 10,000 texts; this registry is on {name}, and values laid on other "
        "texts would look sound. Make a registry on them: llreg texts build pile-10k, then llreg init --texts; or, if "
        "these are those texts under another name: --force"
    )


def _recipe_name(registry: Contents) -> str | None:
    """Name of the recipe that the registry's texts were made by; None where there is none."""
    path = registry.path / "recipe.json"
    try:
        registry.folder.fetch(path)
        name = json.loads(path.read_bytes())["name"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return name if isinstance(name, str) else None


def _compare(result: ImportResult) -> list[str]:
    """Whether the figures are those of the published matrix."""
    if result.shape != PUBLISHED["shape"]:
        return []
    if (result.minimum, result.quantile) == (PUBLISHED["minimum"], PUBLISHED["quantile"]):
        return ["shape, minimum and quantile are those of the published matrix"]
    told = f"the minimum {PUBLISHED['minimum']} and the 2 % quantile {PUBLISHED['quantile']}"
    return [f"this is another matrix than the published one, which has {told}"]
