"""Documents of a data set that `datasets` streams: nothing is stored, and a stopped stream goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from llreg.texts.localfiles import Item
from llreg.texts.recipe import Source
from llreg_schemas.errors import (
    HubNotFoundError,
    HubUnreachableError,
    InputError,
    LlregError,
    MissingExtraError,
)


class DatasetStream:
    """Documents of a data set, in order.

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
        self._source = source
        self._done = 0
        self._data = _load(source)
        if position:
            self._data.load_state_dict(position["state"])
            self._done = position["documents"]

    @property
    def position(self) -> dict[str, Any]:
        """Where the next document stands, as `datasets` says it."""
        return {"state": self._data.state_dict(), "documents": self._done}

    def __iter__(self) -> Iterator[Item]:
        stream = iter(self._data)
        while True:
            try:
                record = next(stream)
            except StopIteration:
                return
            except Exception as error:
                raise _told(error, self._source, self._done) from error
            self._done += 1
            yield Item(f"{self._source.name}: document {self._done - 1}", record)


def _load(source: Source) -> Any:
    try:
        datasets: Any = import_module("datasets")  # it has no type information
    except ImportError as error:
        raise MissingExtraError("datasets", "texts") from error
    name = str(source.dataset)
    if source.is_local:
        name = str(Path(name).expanduser())
        if not Path(name).is_dir():
            raise InputError(f"no directory {source.dataset}")
    datasets.disable_progress_bars()  # ours tells; and none where there is no terminal
    try:
        return datasets.load_dataset(name, source.config, split=source.split, revision=source.revision, streaming=True)
    except Exception as error:
        raise _told(error, source, 0) from error


def _told(error: Exception, source: Source, done: int) -> LlregError:
    """What `datasets` raised, as one of llreg's errors; it has no small set of its own."""
    kinds: Any = import_module("datasets.exceptions")
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if "zstd" in reason.lower() and isinstance(error, (ValueError, ImportError)):
        return MissingExtraError("zstandard", "texts")
    if isinstance(error, (kinds.DatasetNotFoundError, kinds.DataFilesNotFoundError)):
        return HubNotFoundError(f"no data set {source.name} that can be read: {reason}")
    if isinstance(error, UnicodeDecodeError):
        return InputError(f"{source.name}: expected UTF-8 after document {done}: {reason}")
    if isinstance(error, (ValueError, TypeError, RuntimeError, kinds.DatasetsError)):
        return InputError(f"{source.name} cannot be read after {done:,} documents: {reason}")
    return HubUnreachableError(
        f"{source.name} gave no answer after {done:,} documents ({reason}): the same command goes on from there"
    )
