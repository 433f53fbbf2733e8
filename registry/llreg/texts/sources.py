"""Documents of a source, whatever it is: text as UTF-8, label, and where it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, Protocol

from llreg.texts.localfiles import FileStream, Item
from llreg.texts.recipe import Source
from llreg.texts.streamed import DatasetStream
from llreg_schemas.errors import InputError

_ABSENT = object()
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
_MAX_LABEL, _MAX_ORIGIN = 200, 400  # characters; a source string also holds document and piece


class Document(NamedTuple):
    """A document that is used; `data` is its text as UTF-8, `number` its place in the source."""

    number: int
    place: str
    data: bytes
    subset: str
    origin: str


class Stream(Protocol):
    """Documents in order, and a position that another stream can go on from."""

    @property
    def position(self) -> Mapping[str, Any]:
        """JSON."""

    def __iter__(self) -> Iterator[Item]: ...


def open_stream(source: Source, position: Mapping[str, Any] | None = None) -> Stream:
    """Stream a source, from the beginning or from where an earlier stream stopped."""
    return FileStream(source, position) if source.dataset is None else DatasetStream(source, position)


def documents(source: Source, stream: Stream, done: int = 0) -> Iterator[Document | None]:
    """The documents of a source after the first `done`; None for one that `where` leaves out.

    Raises
    ------
    InputError
        If one has no text, or text that is not valid Unicode; the message names it.
    """
    limit = None if source.documents is None else source.documents - done
    for number, (place, record) in enumerate(islice(stream, limit), done):
        if all(_allowed(record, path, values, place) for path, values in source.where.items()):
            yield Document(number, place, _data(record, source, place), _label(record, source), _origin(record, source))
        else:
            yield None


def lookup(record: Mapping[str, Any], path: str) -> Any:
    """A field by its name, or by its dotted path into nested ones; `_ABSENT` if it is not there."""
    if path in record:
        return record[path]
    value: Any = record
    for name in path.split("."):
        if isinstance(value, str):  # some data sets keep their metadata as JSON text
            try:
                value = json.loads(value)
            except ValueError:
                return _ABSENT
        if not isinstance(value, Mapping) or name not in value:
            return _ABSENT
        value = value[name]
    return value


def _allowed(record: Mapping[str, Any], path: str, values: Any, place: str) -> bool:
    value = lookup(record, path)
    if value is _ABSENT:
        raise InputError(f"{place}: no field {path!r} to choose by; fields are {_names(record)}")
    return value in values


def _data(record: Mapping[str, Any], source: Source, place: str) -> bytes:
    text = lookup(record, source.text)
    if text is None:
        return b""
    if not isinstance(text, str):
        what = "nothing" if text is _ABSENT else type(text).__name__
        raise InputError(
            f"{place}: expected text in the field {source.text!r}; got {what}; fields are {_names(record)}"
        )
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:  # a lone surrogate, escaped in JSON
        raise InputError(
            f"{place}: not valid Unicode: character {error.start} is the lone surrogate U+{ord(text[error.start]):04X}"
        ) from error


def _label(record: Mapping[str, Any], source: Source) -> str:
    if isinstance(source.subset, str):
        value = lookup(record, source.subset)
        return _clean("" if value is _ABSENT or value is None else str(value), _MAX_LABEL) or "all"
    return source.subset["label"] if source.subset else "all"


def _origin(record: Mapping[str, Any], source: Source) -> str:
    values = [lookup(record, path) for path in source.source]
    return _clean("/".join(str(value) for value in values if value is not _ABSENT and value is not None), _MAX_ORIGIN)


def _clean(text: str, limit: int) -> str:
    return _UNPRINTABLE.sub(" ", text).strip()[:limit]


def _names(record: Mapping[str, Any]) -> str:
    return ", ".join(_clean(str(name), 40) for name in list(record)[:12]) or "none"
