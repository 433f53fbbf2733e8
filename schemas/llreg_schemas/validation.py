"""The one validator of registry documents: JSON Schema 2020-12, errors told in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, get_args

from llreg_schemas.canonical import canonical_json
from llreg_schemas.errors import FormatVersionError, InvalidFileError
from llreg_schemas.records import FINE_VERSION, FORMAT_VERSION

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

Kind = Literal[
    "registry", "row", "textset", "text", "pair", "version", "retraction", "map", "subset", "view", "recipe", "runfile"
]
KINDS: tuple[Kind, ...] = get_args(Kind)

MAX_DOCUMENT_BYTES = 1 << 20  # 1 MiB: a row record or registry.json
# 64 MiB: a version of about 900,000 row digests, a map of 250,000 rows, a subset of a set of 5,000,000 texts.
MAX_VERSION_BYTES = 1 << 26
_NEWEST_VERSIONS: Mapping[Kind, int] = {"registry": FINE_VERSION, "row": FINE_VERSION}  # of the others 1
_EXCERPT = 60  # characters of a wrong value in a message


def load_schema(kind: Kind) -> dict[str, Any]:
    """The JSON Schema of one kind of document."""
    text = resources.files("llreg_schemas").joinpath(f"{kind}.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@cache
def _validator(kind: Kind) -> Validator:
    # jsonschema costs a tenth of a second that `llreg --help` must not pay.
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    documents = [(name, load_schema(name)) for name in KINDS]
    registry: Registry[Any] = Registry().with_resources(
        (schema["$id"], Resource.from_contents(schema)) for _, schema in documents
    )
    return Draft202012Validator(dict(documents)[kind], registry=registry)


def check(kind: Kind, document: Any, file: str) -> dict[str, Any]:
    """Return `document` if it is a valid document of its kind.

    Parameters
    ----------
    kind : str
        Which schema: one of `KINDS`.
    document : object
        The parsed JSON.
    file : str
        Name shown in messages.

    Raises
    ------
    FormatVersionError
        If the document declares a format version newer than this llreg reads.
    InvalidFileError
        If it breaks the schema; the message names the field, what was expected and what came.
    """
    # A newer format may break the schema anywhere: say that first.
    version = document.get("format_version") if isinstance(document, Mapping) else None
    newest = _NEWEST_VERSIONS.get(kind, FORMAT_VERSION)
    if isinstance(version, int) and not isinstance(version, bool) and version > newest:
        raise FormatVersionError(
            file,
            f"expected format version {newest} or older; got {version}, "
            "written by a newer llreg: pip install --upgrade llreg",
            field="format_version",
        )
    errors = sorted(_validator(kind).iter_errors(document), key=lambda error: [str(p) for p in error.absolute_path])
    if errors:
        error = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        field, problem = _explain(error)
        raise InvalidFileError(file, problem + more, field=field)
    if kind not in ("text", "pair"):  # what canonical JSON or UTF-8 cannot hold would break every later build
        try:
            canonical_json(document).encode("utf-8")
        except ValueError as error:
            raise InvalidFileError(file, f"expected finite numbers and valid Unicode; {error}") from error
    result: dict[str, Any] = document
    return result


def parse(kind: Kind, data: bytes | str, file: str) -> dict[str, Any]:
    """Parse JSON text and check it; `file` is the name shown in messages.

    Raises
    ------
    InvalidFileError, FormatVersionError
        As `check`; also for text that is not JSON, not UTF-8, or too large.
    """
    limit = MAX_VERSION_BYTES if kind in ("version", "map", "subset") else MAX_DOCUMENT_BYTES
    if len(data) > limit:
        raise InvalidFileError(file, f"expected at most {limit:,} bytes; got {len(data):,}")
    try:
        document = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidFileError(file, f"expected JSON; {error}") from error
    return check(kind, document, file)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _explain(error: ValidationError) -> tuple[str, str]:
    """Field path and sentence for one schema error."""
    path = [_excerpt(part, quote=False) for part in error.absolute_path]
    rule, limit, value = error.validator, error.validator_value, error.instance
    if rule == "required":
        missing = next(name for name in limit if name not in value)
        return ".".join([*path, missing]), "expected a value; the field is missing"
    if rule == "additionalProperties" and limit is False:
        fields = error.schema.get("properties", {})
        extra = _excerpt(next(name for name in value if name not in fields), quote=False)
        return ".".join([*path, extra]), "expected no such field; known fields are " + ", ".join(fields)
    rules: dict[str, Callable[[], str]] = {
        "type": lambda: "a value of type " + " or ".join([limit] if isinstance(limit, str) else limit),
        "enum": lambda: "one of " + ", ".join(map(repr, limit)),
        "const": lambda: repr(limit),
        "pattern": lambda: f"text matching {limit}",
        "minimum": lambda: f"a number of at least {limit}",
        "maximum": lambda: f"a number of at most {limit}",
        "exclusiveMinimum": lambda: f"a number above {limit}",
        "minLength": lambda: f"at least {limit} characters",
        "minItems": lambda: f"at least {limit} items",
        "maxLength": lambda: f"at most {limit} characters",
        "maxItems": lambda: f"at most {limit} items",
        "maxProperties": lambda: f"at most {limit} fields",
        "uniqueItems": lambda: "items that all differ",
        "propertyNames": lambda: "other field names",
    }
    expected = rules[str(rule)]() if rule in rules else f"{rule} {limit}"
    return ".".join(path) or "(document)", f"expected {expected}; got {_excerpt(value)}"


def _excerpt(value: Any, *, quote: bool = True) -> str:
    """A wrong value, short and with control characters escaped: it may come from a stranger."""
    text = json.dumps(value, ensure_ascii=True, default=repr)
    if not quote:
        text = text.strip('"')
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 1] + "…"
