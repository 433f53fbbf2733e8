"""Run files, ``models.yaml``: many models to add, each with its revision, dtype and text subset."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from llreg.add.request import check_key
from llreg_schemas import check, load_schema
from llreg_schemas.errors import InputError, InvalidFileError
from llreg_schemas.validation import MAX_DOCUMENT_BYTES

ENDINGS = (".yaml", ".yml")
_TAG = "tag:yaml.org,2002:"
_MAX_DEPTH = 10


def read_models(path: Path, **options: Any) -> list[str | dict[str, Any]]:
    """The models that a file lists, for `Registry.add`.

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
    lines = _read_text(path, "UTF-8 text, a model a line").splitlines()
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
    loader = _Loader(str(path))
    document = loader.load(_read_text(Path(path), "a run file in UTF-8"))
    try:
        check("runfile", document, str(path))
    except InvalidFileError as error:
        raise InputError(f"{loader.position(error.field or '')}: {error.field}: {error.problem}") from error
    # The file's defaults, then the caller's options, then what the file says of one model.
    defaults = {**document.get("defaults", {}), **options}
    entries = [{**defaults, **({"model": entry} if isinstance(entry, str) else entry)} for entry in document["models"]]
    # Refuse a model that is listed twice with the same options, and names that only case tells apart.
    first_by_options: dict[str, int] = {}  # number of the first entry, by all that is said of a model
    first_by_name: dict[str, int] = {}  # number of the first entry, by the model's name without its case
    names = [_row_name(entry) for entry in entries]
    lines = [loader.lines[f"models.{k}"] for k in range(len(entries))]
    for k, (entry, name) in enumerate(zip(entries, names, strict=True)):
        position = f"{path}:{lines[k]}"
        first = first_by_options.setdefault(repr(sorted(entry.items(), key=lambda item: item[0])), k)
        if first != k:
            raise InputError(
                f"{position}: {entry['model']} is listed on line {lines[first]} already, with the same options"
            )
        first = first_by_name.setdefault(name.casefold(), k)
        if names[first] != name:
            raise InputError(
                f"{position}: {name} and {names[first]} (line {lines[first]}) differ only in case: spell a model one way, "
                "and give another one a name of its own"
            )
    return entries


def _read_text(path: Path, expected: str) -> str:
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


class _Loader:
    """A YAML document as plain values, with the line of each of its fields.

    yaml.safe_load knows no lines, takes a key twice, and makes numbers of commits.

    Parameters
    ----------
    file : str
        Name shown in messages.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[str, int] = {}  # by the dotted path of a field
        schema = load_schema("runfile")["properties"]
        self._keys = {
            "": list(schema),
            "defaults": list(schema["defaults"]["properties"]),
            "models.*": list(schema["models"]["items"]["properties"]),
        }

    def load(self, text: str) -> dict[str, Any]:
        """The document, a mapping whose keys are known.

        Raises
        ------
        InputError
        """
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            depth = 0
            for event in yaml.parse(text, Loader=loader):
                # A few lines of aliases can stand for billions of values.
                if isinstance(event, yaml.AliasEvent):
                    self._refuse(event, "aliases (*name) are not taken here: what models share goes to defaults")
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                if depth > _MAX_DEPTH:
                    self._refuse(event, "nested too deep for a run file")
            root = yaml.compose(text, Loader=loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            # Newer libraries refuse deep nesting before an event of it is seen.
            deep = "nesting depth" in str(error.problem)
            reason = "nested too deep for a run file" if deep else f"expected YAML; {error.problem}"
            raise InputError(f"{self.file}:{mark.line + 1 if mark else 1}: {reason}") from error
        except yaml.YAMLError as error:
            raise InputError(f"{self.file}: expected YAML; {str(error).splitlines()[0]}") from error
        document = None if root is None else self._value(root, "")
        if not isinstance(document, dict):
            raise InputError(f"{self.file}: expected a mapping with the key models, a list of models")
        return document

    def position(self, field: str) -> str:
        """File and line of a field, or of the nearest one around it that has a line."""
        while field and field not in self.lines:
            field = field.rpartition(".")[0]
        return f"{self.file}:{self.lines[field]}" if field else self.file

    def _refuse(self, node: Any, problem: str) -> NoReturn:
        raise InputError(f"{self.file}:{node.start_mark.line + 1}: {problem}")

    def _value(self, node: Any, field: str) -> Any:
        """What a node holds. Plain scalars stay the text that was written: a commit of digits is no number."""
        import yaml

        self.lines.setdefault(field, node.start_mark.line + 1)
        prefix = f"{field}." if field else ""
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self._value(item, f"{prefix}{k}") for k, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            mapping: dict[str, Any] = {}
            known = self._keys.get(re.sub(r"\.\d+$", ".*", field))
            for key, item in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    self._refuse(key, "expected a word as a key")
                if key.value in mapping:
                    self._refuse(key, f"the key {key.value[:60]!r} stands twice; take one out")
                try:
                    check_key(key.value, known or [key.value], "key")
                except InputError as error:
                    self._refuse(key, str(error))
                self.lines[prefix + key.value] = key.start_mark.line + 1
                mapping[key.value] = self._value(item, prefix + key.value)
            return mapping
        if isinstance(node, yaml.ScalarNode) and node.tag.startswith(_TAG):
            # Only two keys take other things than text.
            kind, text, key = node.tag.removeprefix(_TAG), node.value, field.rpartition(".")[2]
            if kind == "null":
                return None
            if kind == "bool" and key == "trust_remote_code":
                return text.lower() in ("true", "yes", "on")
            if kind == "int" and key == "batch_tokens" and re.fullmatch(r"[0-9][0-9_]{0,17}", text):
                return int(text.replace("_", ""))
            return text
        return self._refuse(node, f"no tag {node.tag[:40]!r} is taken here")


def _row_name(entry: Mapping[str, Any]) -> str:
    """The name its row will have, as far as it can be told without looking it up."""
    model = str(entry["model"])
    if entry.get("name"):
        return str(entry["name"])
    path = os.path.expanduser(model)  # unlike Path's, it and os.path.exists take any text
    if model.startswith((".", "/", "~")) or os.path.exists(path):
        file = os.path.basename(os.path.realpath(path))
        return file[: -len(".gguf")] if file.lower().endswith(".gguf") else file
    # A GGUF file on the Hub, "org/name/file.gguf": its row has the repository's name.
    on_hub = re.fullmatch(r"([^/]+/[^/]+)/.+\.gguf", model, re.IGNORECASE)
    return on_hub[1] if on_hub else model
