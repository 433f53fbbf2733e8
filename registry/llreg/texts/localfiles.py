"""Documents of files on this machine: JSON Lines (also .gz and .zst), Parquet, plain text. One at a time."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from llreg.texts.recipe import Source
from llreg_schemas.errors import InputError

_JSON_LINES = (".jsonl", ".ndjson")
_PARQUET = (".parquet", ".pq")
_TEXT = (".txt", ".text")
_PACKED = (".gz", ".zst")
_BATCH_ROWS = 256  # rows of a Parquet file held at once
_BOM = b"\xef\xbb\xbf"
ENDINGS = ".jsonl, .ndjson (also packed: .gz, .zst), .parquet or .txt"


class Item(NamedTuple):
    """A document as it comes: where it stands, for messages, and its fields."""

    place: str
    record: Mapping[str, Any]


class FileStream:
    """Documents of a source's files, in order.

    Parameters
    ----------
    source : Source
    position : mapping, optional
        Where an earlier stream stopped.
    """

    def __init__(self, source: Source, position: Mapping[str, int] | None) -> None:
        self._source = source
        self._file, self._done = (position["file"], position["documents"]) if position else (0, 0)

    @property
    def position(self) -> dict[str, int]:
        """Where the next document stands: number of the file, documents of it that are done."""
        return {"file": self._file, "documents": self._done}

    def __iter__(self) -> Iterator[Item]:
        while self._file < len(self._source.files):
            path = Path(self._source.files[self._file]).expanduser()
            for item in read(path, self._source, self._done):
                self._done += 1
                yield item
            self._file, self._done = self._file + 1, 0


def check_files(source: Source) -> None:
    """Refuse files that are not there or of another kind, before any is read.

    Raises
    ------
    InputError
    """
    for name in source.files:
        path = Path(name).expanduser()
        if not path.is_file():
            raise InputError(f"no file {name}")
        _reader(path)


def read(path: Path, source: Source, skip: int = 0) -> Iterator[Item]:
    """Documents of one file, without the first `skip`.

    Raises
    ------
    InputError
        If it cannot be read, is not UTF-8, or not what its ending says; the message names line or row, and byte.
    """
    return _reader(path)(path, source, skip)


def _reader(path: Path) -> Callable[[Path, Source, int], Iterator[Item]]:
    name = path.name.lower()
    for ending in _PACKED:
        name = name.removesuffix(ending)
    packed = name != path.name.lower()
    if name.endswith(_JSON_LINES):
        return _json_lines
    if name.endswith(_PARQUET) and not packed:
        return _parquet
    if name.endswith(_TEXT) and not packed:
        return _text
    raise InputError(f"{path}: expected a file that ends in {ENDINGS}")


def _open(path: Path) -> BinaryIO:
    try:
        if path.suffix.lower() == ".gz":
            return io.BufferedReader(gzip.open(path))
        if path.suffix.lower() == ".zst":
            import pyarrow as pa

            return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line with its ending."""
    place = number = 0
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, 1):
                data = raw.removeprefix(_BOM) if number == 1 else raw
                yield number, _decode(data, f"{path}:{number}", place + len(raw) - len(data))
                place += len(raw)
    except (OSError, EOFError) as error:  # a packed file that is cut off or none
        raise InputError(f"{path}: cannot be read beyond line {number}: {error}") from error


def _decode(data: bytes, where: str, begin: int) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: expected UTF-8; byte {begin + error.start} of the file is 0x{data[error.start]:02x}: {error.reason}"
        ) from error


def _json_lines(path: Path, source: Source, skip: int) -> Iterator[Item]:
    done = 0
    for number, line in _lines(path):
        if not line.strip():
            continue
        done += 1
        if done <= skip:
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: expected one JSON object a line; {error}") from error
        if not isinstance(record, dict):
            raise InputError(f"{where}: expected a JSON object with a field {source.text!r}")
        yield Item(where, record)


def _parquet(path: Path, source: Source, skip: int) -> Iterator[Item]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(path) as file:
            there = file.schema_arrow.names
            names = [name for name in there if name in _fields(source)]
            if not {source.text, source.text.split(".")[0]} & set(names):
                raise InputError(f"{path}: expected a column {source.text!r}; got {', '.join(there) or 'none'}")
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                if row + size <= skip:
                    row += size
                    continue
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=names, use_threads=False):
                    for record in batch.to_pylist():
                        row += 1
                        if row > skip:
                            yield Item(f"{path}: row {row - 1}", record)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 in row {row} or a little later; {error.reason}") from error
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: expected a Parquet file; {error}") from error


def _text(path: Path, source: Source, skip: int) -> Iterator[Item]:
    for done, (number, text) in enumerate(_units(path, source.unit)):
        if done >= skip:
            yield Item(f"{path}:{number}", {source.text: text})


def _units(path: Path, unit: str) -> Iterator[tuple[int, str]]:
    """Texts of a plain file with the line that each begins on; the line breaks around a text are not part of it."""
    held: list[str] = []
    begin = 1
    for number, line in _lines(path):
        if unit == "line":
            if line.strip():
                yield number, line.rstrip("\r\n")
        elif unit == "file" or line.strip():
            begin = begin if held else number
            held.append(line)
        elif held:
            yield begin, "".join(held).rstrip("\r\n")
            held = []
    if held:
        yield begin, "".join(held).rstrip("\r\n")


def _fields(source: Source) -> set[str]:
    """Names of the outermost fields that a source's documents are read for."""
    subset = [source.subset] if isinstance(source.subset, str) else []
    paths = [source.text, *subset, *source.source, *source.where]
    return {path.split(".")[0] for path in paths} | set(paths)
