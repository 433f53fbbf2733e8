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

_PACKED = (".gz", ".zst")
_BATCH_ROWS = 256  # rows of a Parquet file held at once
_BOM = b"\xef\xbb\xbf"
ENDINGS = ".jsonl, .ndjson (also packed: .gz, .zst), .parquet or .txt"


class Item(NamedTuple):
    """A document as it comes: its location, for messages, and its fields."""

    location: str
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
        self._file, self._read = (position["file"], position["documents"]) if position else (0, 0)

    @property
    def position(self) -> dict[str, int]:
        """Where the next document stands: number of the file, and documents of it that were read."""
        return {"file": self._file, "documents": self._read}

    def __iter__(self) -> Iterator[Item]:
        while self._file < len(self._source.files):
            path = Path(self._source.files[self._file]).expanduser()
            for item in _reader(path)(path, self._source, self._read):
                self._read += 1
                yield item
            self._file, self._read = self._file + 1, 0


def check_files(source: Source) -> None:
    """Refuse files that are missing or of another kind, before any is read.

    Raises
    ------
    InputError
    """
    for name in source.files:
        path = Path(name).expanduser()
        if not path.is_file():
            raise InputError(f"no file {name}")
        _reader(path)


def _reader(path: Path) -> Callable[[Path, Source, int], Iterator[Item]]:
    """What reads a file of this ending, without its first documents.

    A reader raises InputError if the file cannot be read, is not UTF-8, or not what its ending says; the message names
    line or row, and byte.
    """
    name = path.name.lower()
    for ending in _PACKED:
        name = name.removesuffix(ending)
    packed = name != path.name.lower()
    if name.endswith((".jsonl", ".ndjson")):
        return _json_lines
    if name.endswith((".parquet", ".pq")) and not packed:
        return _parquet
    if name.endswith((".txt", ".text")) and not packed:
        return _plain_text
    raise InputError(f"{path}: expected a file that ends in {ENDINGS}")


def _json_lines(path: Path, source: Source, skip: int) -> Iterator[Item]:
    count = 0
    for number, line in _lines(path):
        if not line.strip():
            continue
        count += 1
        if count <= skip:
            continue
        location = f"{path}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{location}: expected one JSON object a line; {error}") from error
        if not isinstance(record, dict):
            raise InputError(f"{location}: expected a JSON object with a field {source.text!r}")
        yield Item(location, record)


def _parquet(path: Path, source: Source, skip: int) -> Iterator[Item]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Only the columns of the fields that are asked for. A field may be a column, or lie in one: then its path begins
    # with the column's name.
    paths = {source.text, *source.source, *source.where}
    paths |= {source.subset} if isinstance(source.subset, str) else set()
    fields = paths | {field.split(".")[0] for field in paths}
    row = 0
    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name in fields]
            if not {source.text, source.text.split(".")[0]} & set(columns):
                names = ", ".join(file.schema_arrow.names) or "none"
                raise InputError(f"{path}: expected a column {source.text!r}; got {names}")
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                if row + size <= skip:  # read before: not even unpacked
                    row += size
                    continue
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False):
                    for record in batch.to_pylist():
                        row += 1
                        if row > skip:
                            yield Item(f"{path}: row {row - 1}", record)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 in row {row} or a little later; {error.reason}") from error
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: expected a Parquet file; {error}") from error


def _plain_text(path: Path, source: Source, skip: int) -> Iterator[Item]:
    def texts() -> Iterator[tuple[int, str]]:
        """Texts with the line that each begins on."""
        text: list[str] = []  # lines of the one that is being read
        begin = 1
        for number, line in _lines(path):
            if source.unit != "file" and not line.strip():  # a blank line is no text, and ends a paragraph
                if text:
                    yield begin, "".join(text)
                text = []
                continue
            if not text:
                begin = number
            text.append(line)
            if source.unit == "line":
                yield begin, text.pop()
        if text:
            yield begin, "".join(text)

    # The line breaks around a text are not part of it.
    for count, (number, text) in enumerate(texts()):
        if count >= skip:
            yield Item(f"{path}:{number}", {source.text: text.rstrip("\r\n")})


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line with its ending, of a file that may be packed."""
    offset = number = 0  # bytes before the line, unpacked
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, 1):
                data = raw.removeprefix(_BOM) if number == 1 else raw
                try:
                    line = data.decode("utf-8")
                except UnicodeDecodeError as error:
                    byte = offset + len(raw) - len(data) + error.start
                    raise InputError(
                        f"{path}:{number}: expected UTF-8; byte {byte} of the file is 0x{data[error.start]:02x}: "
                        f"{error.reason}"
                    ) from error
                yield number, line
                offset += len(raw)
    except (OSError, EOFError) as error:  # a packed file that is cut off or none
        raise InputError(f"{path}: cannot be read beyond line {number}: {error}") from error


def _open(path: Path) -> BinaryIO:
    """The file's bytes, unpacked as its ending says."""
    try:
        if path.suffix.lower() == ".gz":
            return io.BufferedReader(gzip.open(path))
        if path.suffix.lower() == ".zst":
            import pyarrow as pa

            return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
