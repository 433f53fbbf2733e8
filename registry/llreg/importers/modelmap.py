"""The matrices that the authors of Oyama et al. 2025 (arXiv 2502.16173) and 2025b (arXiv 2505.15428) published.

From github.com/shimo-lab/modelmap: ``raw_log-likelihood_1018.pkl`` is a dict of model names and arrays of 10,000
log-likelihoods, which become rows; ``model-data-1018.pkl`` a list of dicts with metadata and benchmark scores, which
become annotations, and log-likelihoods clipped at the 2 % quantile of all.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg import settings
from llreg.importers.measurement import Measurement, Origin, make_declared, read_bounded
from llreg.importers.rows import ImportResult, import_rows, order_note, refuse_twins
from llreg.importers.unpickle import read_pickle
from llreg.names import is_name
from llreg.store.annotations import to_table, write_annotations
from llreg.store.layout import RECIPE
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents

METADATA, SCORES = "modelmap-metadata", "modelmap-scores"
PUBLISHED = {"shape": (1018, 10000), "minimum": -20503.7119140625, "quantile": -1412.3424912643432}
_TEXT_SETS = ("pile-10k", "texts-10k-pile")  # the preset, and the authors' file
_DTYPE = "float16"  # of the weights: the default of the authors' script
_RAW, _CLIPPED, _SCORE = "raw_log-likelihood-10k", "log-likelihood-10k", "score_"
_NUMBER = (int, float)
_COLUMNS: dict[str, tuple[type, ...]] = {
    "model_type": (str,),
    "model_size": _NUMBER,  # 10**9 parameters
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
    name = str(path)
    vectors, entries, origin = _read(path, metadata, names)
    tables = _annotations(entries)
    if not vectors:  # metadata alone
        note = (
            f"no rows: {_CLIPPED} is clipped at the 2 % quantile, what lay below is lost, and rows are stored raw; "
            "import raw_log-likelihood_1018.pkl for rows"
        )
        result = ImportResult(origin.file, [], [], [], [], (0, 0), None, None, dry_run, [note])
    else:
        if not force:
            _check_text_set(registry)
        declared = {entry["model_name"]: _declared(entry) for entry in entries}
        measurements = [
            Measurement(
                model=model,
                log_likelihood=_array(vector, f"{name}: {model}"),
                location=f"{name}: {model}",
                weight_dtype=_DTYPE,
                declared=declared.get(model, {}),
            )
            for model, vector in vectors.items()
        ]
        result = import_rows(registry, measurements, origin, dry_run=dry_run, progress=progress)
        if result.shape == PUBLISHED["shape"]:
            if (result.minimum, result.quantile) == (PUBLISHED["minimum"], PUBLISHED["quantile"]):
                result.notes.append("shape, minimum and quantile are those of the published matrix")
            else:
                figures = f"the minimum {PUBLISHED['minimum']} and the 2 % quantile {PUBLISHED['quantile']}"
                result.notes.append(f"this is another matrix than the published one, which has {figures}")
        result.notes.append(order_note(registry))
    if not dry_run:
        for title, table in tables.items():
            write_annotations(registry, title, to_table(table))
    return replace(result, annotations=list(tables))


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
    cells = [line.partition("#")[0].strip().removeprefix("- ").strip(" '\"") for line in lines]
    names = [name for name in cells if name]
    if not names:
        raise InputError(f"{path}: expected a model a line; it names none")
    return names


# What the files hold


def _read(
    path: Path, metadata: Path | None, names: Sequence[str] | None
) -> tuple[dict[str, Any], list[dict[str, Any]], Origin]:
    """Raw values by model, metadata, both of the models in `names` only, and the file that the values are from."""
    name = str(path)
    data = read_bounded(path)
    content, origin = read_pickle(data, name), Origin.of("modelmap", path, data)
    del data  # large
    entries = [] if metadata is None else _check_metadata(read_pickle(read_bounded(metadata), str(metadata)), metadata)
    if isinstance(content, list):
        if metadata is not None:
            raise InputError(f"{name}: expected a dict of log-likelihoods; it holds metadata, as {metadata} does")
        entries = _check_metadata(content, path)
        # Some editions of the metadata hold raw values beside the clipped ones.
        vectors = {entry["model_name"]: entry[_RAW] for entry in entries if _is_vector(entry.get(_RAW))}
    elif isinstance(content, dict) and content and all(map(_is_vector, content.values())):
        vectors = content
    else:
        raise InputError(
            f"{name}: expected a dict of model names and arrays of log-likelihoods, or a list of dicts with "
            f"model_name; got {_describe(content)}"
        )
    if names is None:
        return vectors, entries, origin
    models = {*vectors, *(entry["model_name"] for entry in entries)}
    missing = [model for model in names if model not in models]
    if missing:
        more = f" and {len(missing) - 5:,} others" if len(missing) > 5 else ""
        raise InputError(f"{name}: expected the models in --names; it has no {', '.join(missing[:5])}{more}")
    selection = set(names)
    return (
        {model: vector for model, vector in vectors.items() if model in selection},
        [entry for entry in entries if entry["model_name"] in selection],
        origin,
    )


def _check_metadata(content: Any, path: Path) -> list[dict[str, Any]]:
    """Metadata as a list of dicts, each with a usable name and values of the kinds that they should have."""
    if not isinstance(content, list) or not content or not all(isinstance(entry, dict) for entry in content):
        raise InputError(f"{path}: expected a list of dicts with model_name; got {_describe(content)}")
    for number, entry in enumerate(content, 1):
        location, name = f"{path}: entry {number}", entry.get("model_name")
        if not isinstance(name, str) or not is_name(name):
            raise InputError(f"{location}: expected a model's name in model_name; got {str(name)[:100]!r}")
        for key, value in entry.items():  # keys that are not known are left alone
            kinds = _NUMBER if key.startswith(_SCORE) else _COLUMNS.get(key)
            if kinds and value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
                raise InputError(
                    f"{location}, {name}: expected {kinds[0].__name__} in {key}; got {type(value).__name__}"
                )
        if not all(isinstance(tag, str) for tag in entry.get("tags") or []):
            raise InputError(f"{location}, {name}: expected text in tags")
    # A name stands for one model, whatever its case.
    names = [entry["model_name"] for entry in content]
    refuse_twins([(name, f"{path}: model {number}") for number, name in enumerate(names, 1)])
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"{path}: {name} stands there {count} times; keep one")
    # Clipped values are most of the file, and become nothing.
    return [{key: value for key, value in entry.items() if key != _CLIPPED} for entry in content]


def _describe(content: Any) -> str:
    """What a file holds instead of what was expected, for a message."""
    kind = type(content).__name__
    if isinstance(content, dict) and content:
        key, value = next((item for item in content.items() if not _is_vector(item[1])), next(iter(content.items())))
        return f"a dict with {type(value).__name__} for {key[:80]!r}"
    return f"an empty {kind}" if isinstance(content, (dict, list)) and not content else f"a {kind}"


def _is_vector(value: Any) -> bool:
    return isinstance(value, (np.ndarray, list))


def _array(vector: NDArray[Any] | list[Any], location: str) -> NDArray[Any]:
    if isinstance(vector, np.ndarray):
        return vector
    if not all(isinstance(number, _NUMBER) and not isinstance(number, bool) for number in vector):
        raise InputError(f"{location}: expected a list of numbers")
    return np.array(vector, dtype=np.float64)


# What becomes of the metadata


def _declared(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What the model's card said when the authors read it; the model's type is a family, not an architecture."""
    tags = entry.get("tags") or []
    bases: list[str] = []
    relation = None
    for tag in tags:  # base_model:org/name or base_model:finetune:org/name
        kind, _, rest = tag.partition(":")
        if kind == "base_model":
            first, colon, base = rest.partition(":")
            if colon:
                relation = first
            bases.append(base if colon else first)
    # Either may be missing, or NaN.
    size, downloads = (
        float(value) if isinstance(value, _NUMBER) and math.isfinite(value) else None
        for value in (entry.get("model_size"), entry.get("downloads"))
    )
    return make_declared(
        base_model=list(dict.fromkeys(bases)),
        relation=relation,
        licence=next((tag.partition(":")[2] for tag in tags if tag.startswith("license:")), None),
        num_parameters=round(size * _BILLION) if size is not None and 0 < size < _MAX_BILLIONS else None,
        created=entry.get("created_at"),
        downloads=None if downloads is None else int(downloads),
        tags=tags,
    )


def _annotations(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """Columns of the annotations: metadata, and scores with the families that `llreg predict` splits by."""
    if not entries:
        return {}
    models = [entry["model_name"] for entry in entries]
    columns = {key: [entry.get(key) for entry in entries] for key in _COLUMNS}
    # A table's cell holds text or a number, no list.
    columns["tags"] = [None if tags is None else ", ".join(tags) for tags in columns["tags"]]
    not_empty = {key: column for key, column in columns.items() if set(column) != {None}}
    tables = {METADATA: {"model": models, **not_empty}}
    tasks = dict.fromkeys(key for entry in entries for key in entry if key.startswith(_SCORE))
    if tasks:
        scores = {
            key: [None if (score := entry.get(key)) is None else float(score) for entry in entries] for key in tasks
        }
        tables[SCORES] = {"model": models, "model_type": columns["model_type"], **scores}
    return tables


# Are these the paper's texts?


def _check_text_set(registry: Contents) -> None:
    """Refuse a registry that is not on the paper's texts, by the name of its text set or of the recipe they were made by."""
    name = registry.info.text_set.name
    if name in _TEXT_SETS:
        return
    path = registry.path / RECIPE
    try:
        registry.folder.fetch(path)
        if json.loads(path.read_bytes())["name"] in _TEXT_SETS:
            return
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # no recipe, or none that can be read
    raise InputError(
        f"these log-likelihoods are of the paper's 10,000 texts; this registry is on {name}, and values laid on other "
        "texts would look sound. Make a registry on them: llreg texts build pile-10k, then llreg init --texts; or, if "
        "these are those texts under another name: --force"
    )
