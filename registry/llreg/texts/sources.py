"""Documents of a source, whatever it is: a data set that `datasets` streams, or files (`localfiles`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from llreg.texts.localfiles import FileStream, Item
from llreg.texts.recipe import Source
from llreg_schemas.errors import HubNotFoundError, HubUnreachableError, InputError, LlregError, MissingExtraError

_ABSENT = object()
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
_MAX_LABEL, _MAX_ORIGIN = 200, 400  # characters; a source string also holds document and piece


class Document(NamedTuple):
    """A document that is used.

    `number` counts the documents of its source, `location` names it in messages, `data` is its text as UTF-8, `origin`
    what it says of where it comes from.
    """

    number: int
    location: str
    data: bytes
    subset: str
    origin: str


class Stream(Protocol):
    """Documents in order, and a position that another stream can go on from."""

    @property
    def position(self) -> Mapping[str, Any]:
        """Where the next document stands, as JSON."""

    def __iter__(self) -> Iterator[Item]: ...


def open_stream(source: Source, position: Mapping[str, Any] | None = None) -> Stream:
    """Stream a source, from the beginning or from where an earlier stream stopped."""
    return FileStream(source, position) if source.dataset is None else DatasetStream(source, position)


def documents(source: Source, stream: Stream, skip: int = 0) -> Iterator[Document | None]:
    """The documents of a source from number `skip` on, where the stream stands; None for one that `where` leaves out.

    Raises
    ------
    InputError
        If one has no text, or text that is not valid Unicode; the message names it.
    """
    # The source's limit counts also the documents that `where` leaves out.
    limit = None if source.documents is None else source.documents - skip
    for number, (location, record) in enumerate(islice(stream, limit), skip):
        if not _is_wanted(record, source, location):
            yield None
            continue
        if isinstance(source.subset, str):
            subset = _clean([lookup(record, source.subset)], _MAX_LABEL) or "all"
        else:
            subset = source.subset["label"] if source.subset else "all"
        origin = _clean([lookup(record, path) for path in source.source], _MAX_ORIGIN)
        yield Document(number, location, _utf8(record, source, location), subset, origin)


def lookup(record: Mapping[str, Any], path: str) -> Any:
    """A field by its name, or by its dotted path into nested ones; `_ABSENT` if it is not there."""
    if path in record:  # a name may have dots in it
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


def _is_wanted(record: Mapping[str, Any], source: Source, location: str) -> bool:
    """Whether a document's fields have the values that the source's `where` asks for."""
    for path, values in source.where.items():
        value = lookup(record, path)
        if value is _ABSENT:
            raise InputError(f"{location}: no field {path!r} to choose by; fields are {_names(record)}")
        if value not in values:
            return False
    return True


def _utf8(record: Mapping[str, Any], source: Source, location: str) -> bytes:
    """A document's text; null is an empty one."""
    text = lookup(record, source.text)
    if text is None:
        return b""
    if not isinstance(text, str):
        kind = "nothing" if text is _ABSENT else type(text).__name__
        raise InputError(
            f"{location}: expected text in the field {source.text!r}; got {kind}; fields are {_names(record)}"
        )
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:  # a lone surrogate, escaped in JSON
        raise InputError(
            f"{location}: not valid Unicode: character {error.start} is the lone surrogate U+{ord(text[error.start]):04X}"
        ) from error


def _names(record: Mapping[str, Any]) -> str:
    """The first fields of a record, for a message."""
    return ", ".join(_clean([name], 40) for name in list(record)[:12]) or "none"


def _clean(values: list[Any], limit: int) -> str:
    """Values of any origin as one line of text; absent and null ones are left out."""
    text = "/".join(str(value) for value in values if value is not _ABSENT and value is not None)
    return _UNPRINTABLE.sub(" ", text).strip()[:limit]


class DatasetStream:
    """Documents of a data set that `datasets` streams, in order; nothing is stored.

    Parameters
    ----------
    source : Source
        With a data set.
    position : mapping, optional
        Where an earlier stream stopped.

    Raises
    ------
    MissingExtraError
        If `datasets` is not installed, or zstandard where the data set is packed with it.
    HubNotFoundError, HubUnreachableError, InputError
    """

    def __init__(self, source: Source, position: Mapping[str, Any] | None) -> None:
        try:
            datasets: Any = import_module("datasets")  # it has no type information
        except ImportError as error:
            raise MissingExtraError("datasets", "texts") from error
        name = str(source.dataset)
        if source.is_local:
            name = str(Path(name).expanduser())
            if not Path(name).is_dir():
                raise InputError(f"no directory {source.dataset}")
        datasets.disable_progress_bars()  # llreg shows its own
        self._source = source
        self._read = 0  # documents, for the position and for messages
        try:
            self._data = datasets.load_dataset(
                name, source.config, split=source.split, revision=source.revision, streaming=True
            )
        except Exception as error:
            raise self._explained(error) from error
        if position:
            self._data.load_state_dict(position["state"])
            self._read = position["documents"]

    @property
    def position(self) -> dict[str, Any]:
        """Where the next document stands, in the words of `datasets`."""
        return {"state": self._data.state_dict(), "documents": self._read}

    def __iter__(self) -> Iterator[Item]:
        stream = iter(self._data)
        while True:
            try:
                record = next(stream)
            except StopIteration:
                return
            except Exception as error:
                raise self._explained(error) from error
            self._read += 1
            yield Item(f"{self._source.name}: document {self._read - 1}", record)

    def _explained(self, error: Exception) -> LlregError:
        """What `datasets` raised, as one of llreg's errors; it lets through those of all the libraries below it."""
        kinds: Any = import_module("datasets.exceptions")
        name, read = self._source.name, self._read
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if "zstd" in reason.lower() and isinstance(error, (ValueError, ImportError)):
            return MissingExtraError("zstandard", "texts")
        if isinstance(error, (kinds.DatasetNotFoundError, kinds.DataFilesNotFoundError)):
            return HubNotFoundError(f"no data set {name} that can be read: {reason}")
        if isinstance(error, UnicodeDecodeError):
            return InputError(f"{name}: expected UTF-8 after document {read}: {reason}")
        if isinstance(error, (ValueError, TypeError, RuntimeError, kinds.DatasetsError)):
            return InputError(f"{name} cannot be read after {read:,} documents: {reason}")
        return HubUnreachableError(
            f"{name} gave no answer after {read:,} documents ({reason}): the same command goes on from there"
        )
