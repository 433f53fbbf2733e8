"""Run files, ``models.yaml``: many models to add, each with its revision, dtype and text subset."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from llreg.add.request import check_key
from llreg_schemas import check, load_schema
from llreg_schemas.errors import InputError, InvalidFileError
from llreg_schemas.validation import MAX_DOCUMENT_BYTES

ENDINGS = (".yaml", ".yml")
_GGUF = re.compile(r"([^/]+/[^/]+)/.+\.gguf", re.IGNORECASE)
_TAG = "tag:yaml.org,2002:"
_MAX_DEPTH = 10

Lines = dict[str, int]  # dotted path of a field -> its line


def read_models(path: Path, **options: Any) -> list[str | dict[str, Any]]:
    """The models that a file lists, for `llreg.add.add.add`.

    Parameters
    ----------
    path : Path
        A run file where it ends in ``.yaml`` or ``.yml``; else a model a line, where # begins a comment.
    **options
        As in `read_run_file`.

    Raises
    ------
    InputError
        If it cannot be read, or is not valid.
    """
    if path.suffix.lower() in ENDINGS:
        return [dict(entry) for entry in read_run_file(path, **options)]
    lines = _text(path, "UTF-8 text, a model a line").splitlines()
    names = [re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip() for line in lines]
    return [name for name in names if name]


def read_run_file(path: str | Path, **options: Any) -> list[dict[str, Any]]:
    """Read and check a run file (``runfile.schema.json``).

    Parameters
    ----------
    path : str or Path
    **options
        Fields of `llreg.add.request.Options` that go before the file's defaults, but not before what it says of one model.

    Returns
    -------
    list of dict
        One a model, in order: `model`, and its options.

    Raises
    ------
    InputError
        If it is not YAML of that form, a key is unknown or stands twice, or a model is listed twice; the message names
        the line.
    """
    shown = str(path)
    document, lines = _parse(_text(Path(path), "a run file in UTF-8"), shown)
    _check_keys(document, lines, shown)
    try:
        check("runfile", document, shown)
    except InvalidFileError as error:
        raise InputError(f"{_at(shown, lines, error.field or '')}: {error.field}: {error.problem}") from error
    defaults = {**document.get("defaults", {}), **options}
    entries = [{**defaults, **({"model": entry} if isinstance(entry, str) else entry)} for entry in document["models"]]
    _check_differ(entries, [_at(shown, lines, f"models.{k}") for k in range(len(entries))])
    return entries


def _text(path: Path, expected: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_DOCUMENT_BYTES + 1)
        if len(data) > MAX_DOCUMENT_BYTES:
            raise InputError(f"{path}: expected at most {MAX_DOCUMENT_BYTES:,} bytes")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected {expected}") from error


def _at(shown: str, lines: Mapping[str, int], field: str) -> str:
    """File and line of a field, or of the nearest one around it that has a line."""
    while field and field not in lines:
        field = field.rpartition(".")[0]
    return f"{shown}:{lines[field]}" if field in lines else shown


def _parse(text: str, shown: str) -> tuple[dict[str, Any], Lines]:
    """The document, and the line of each of its fields."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_events(yaml.parse(text, Loader=loader), shown)
        lines: Lines = {}
        document = _value(yaml.compose(text, Loader=loader), "", lines, shown)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise InputError(f"{shown}:{mark.line + 1 if mark else 1}: expected YAML; {error.problem}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{shown}: expected YAML; {str(error).splitlines()[0]}") from error
    if not isinstance(document, dict):
        raise InputError(f"{shown}: expected a mapping with the key models, a list of models")
    return document, lines


def _check_events(events: Iterable[Any], shown: str) -> None:
    """Refuse aliases, a few lines of which can stand for billions of values, and what is nested beyond any run file."""
    import yaml

    depth = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            _refuse(event, shown, "aliases (*name) are not taken here: what models share goes to defaults")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            _refuse(event, shown, "nested too deep for a run file")


def _value(node: Any, field: str, lines: Lines, shown: str) -> Any:
    """What a node holds. Plain scalars stay the text that was written: a commit of digits is no number."""
    import yaml

    if node is None:
        return None
    if field:
        lines[field] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        return [_value(item, f"{field}.{k}" if field else str(k), lines, shown) for k, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        return _mapping(node, field, lines, shown)
    if isinstance(node, yaml.ScalarNode) and node.tag.startswith(_TAG):
        return _scalar(node, field.rpartition(".")[2])
    return _refuse(node, shown, f"no tag {node.tag[:40]!r} is taken here")


def _mapping(node: Any, field: str, lines: Lines, shown: str) -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            _refuse(key, shown, "expected a word as a key")
        if key.value in found:
            _refuse(key, shown, f"the key {key.value[:60]!r} stands twice; take one out")
        path = f"{field}.{key.value}" if field else key.value
        found[key.value] = _value(value, path, lines, shown)
        lines[path] = key.start_mark.line + 1
    return found


def _scalar(node: Any, key: str) -> Any:
    kind, text = node.tag.removeprefix(_TAG), node.value
    if kind == "null":
        return None
    if kind == "bool" and key == "trust_remote_code":
        return text.lower() in ("true", "yes", "on")
    if kind == "int" and key == "batch_tokens" and re.fullmatch(r"[0-9][0-9_]{0,17}", text):
        return int(text.replace("_", ""))
    return text


def _refuse(node: Any, shown: str, problem: str) -> NoReturn:
    raise InputError(f"{shown}:{node.start_mark.line + 1}: {problem}")


def _check_keys(document: Mapping[str, Any], lines: Lines, shown: str) -> None:
    """Refuse unknown keys before the schema does: with the nearest known one."""
    properties = load_schema("runfile")["properties"]
    parts = [("", document, properties)]
    if isinstance(document.get("defaults"), dict):
        parts.append(("defaults.", document["defaults"], properties["defaults"]["properties"]))
    models = document.get("models")
    known = properties["models"]["items"]["properties"]
    for k, entry in enumerate(models if isinstance(models, list) else []):
        if isinstance(entry, dict):
            parts.append((f"models.{k}.", entry, known))
    for prefix, part, keys in parts:
        for key in part:
            try:
                check_key(key, list(keys), "key")
            except InputError as error:
                raise InputError(f"{_at(shown, lines, prefix + key)}: {error}") from error


def _check_differ(entries: Sequence[Mapping[str, Any]], places: Sequence[str]) -> None:
    """Refuse a model that is listed twice with the same options, and names that only case tells apart."""
    seen: dict[str, str] = {}
    spelt: dict[str, tuple[str, str]] = {}
    for entry, place in zip(entries, places, strict=True):
        key = repr(sorted(entry.items(), key=lambda item: item[0]))
        if key in seen:
            raise InputError(
                f"{place}: {entry['model']} is listed on line {_line(seen[key])} already, with the same options"
            )
        name = _name(entry)
        there, where = spelt.setdefault(name.casefold(), (name, place))
        if there != name:
            raise InputError(
                f"{place}: {name} and {there} (line {_line(where)}) differ only in case: spell a model one way, "
                "and give another one a name of its own"
            )
        seen[key] = place


def _line(place: str) -> str:
    return place.rpartition(":")[2]


def _name(entry: Mapping[str, Any]) -> str:
    """The name its row will have, as far as it can be told without looking it up."""
    model = str(entry["model"])
    on_hub = _GGUF.fullmatch(model)
    if entry.get("name"):
        return str(entry["name"])
    path = os.path.expanduser(model)  # unlike Path's, it and os.path.exists take any text
    if model.startswith((".", "/", "~")) or os.path.exists(path):
        last = os.path.basename(os.path.realpath(path))
        return last[: -len(".gguf")] if last.lower().endswith(".gguf") else last
    return on_hub[1] if on_hub else model
