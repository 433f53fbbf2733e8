"""Text sets: N texts in a fixed order, as ``texts.parquet``, JSON Lines, or the embedded set `mini`."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg.settings import MAX_TEXT_BYTES, MAX_TEXTS
from llreg_schemas import TextSetInfo, canonical_json, check, sha256_text, text_set_id
from llreg_schemas.errors import InputError, InvalidFileError, NotFoundError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MINI = "mini"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


@dataclass(frozen=True)
class TextIndex:
    """What is known of a text set's texts, in their fixed order, without the texts.

    Attributes
    ----------
    info : TextSetInfo
    num_bytes : sequence of int
        UTF-8 bytes of each text.
    sha256, subset, source : sequence of str
        Hash of each text's UTF-8 bytes, its subset, and where it comes from.
    """

    info: TextSetInfo
    num_bytes: Sequence[int]
    sha256: Sequence[str]
    subset: Sequence[str]
    source: Sequence[str]

    def __len__(self) -> int:
        return self.info.num_texts

    @cached_property
    def bytes_per_text(self) -> NDArray[np.float64]:
        """UTF-8 bytes, float64 array of shape (n_texts,)."""
        import numpy as np

        return np.asarray(self.num_bytes, dtype=np.float64)


@dataclass(frozen=True)
class TextSet(TextIndex):
    """A text set with its texts.

    Attributes
    ----------
    texts : sequence of str or None
        None where a licence forbids copying the text.
    recipe : mapping, optional
        How it was built, where it comes from `llreg texts build`.
    """

    texts: Sequence[str | None]
    recipe: Mapping[str, Any] | None = None

    def complete(self, indices: Sequence[int] | None = None) -> list[str]:
        """Every text, or those at some indices.

        Raises
        ------
        NotFoundError
            If some are not copied here; scoring needs them all.
        """
        texts = self.texts if indices is None else [self.texts[text] for text in indices]
        missing = sum(text is None for text in texts)
        if missing:
            raise NotFoundError(
                f"{missing:,} of {len(texts):,} texts of {self.info.name} are not copied in this registry "
                "(their licence forbids it); rebuild them from their source with: llreg texts build"
            )
        return [text for text in texts if text is not None]


def make_text_set(name: str, items: Sequence[Mapping[str, Any]], *, licence: str, description: str = "") -> TextSet:
    """A text set from mappings with `text` and optional `subset` and `source`, in order."""
    texts = [item["text"] for item in items]
    hashes = [sha256_text(text) for text in texts]
    sizes = [len(text.encode("utf-8")) for text in texts]
    subset = [item.get("subset") or "all" for item in items]
    counts: dict[str, int] = {}
    for label in subset:
        counts[label] = counts.get(label, 0) + 1
    info = TextSetInfo(
        id=text_set_id(hashes),
        name=name,
        licence=licence,
        num_texts=len(texts),
        mean_bytes=sum(sizes) / len(sizes),
        subsets=counts,
        description=description,
    )
    return TextSet(info, sizes, hashes, subset, [item.get("source") or "" for item in items], texts)


def load_texts(which: str | Path) -> TextSet:
    """The embedded set `mini`, a file that `llreg texts build` made, or a user's JSON Lines or Parquet file.

    Parameters
    ----------
    which : str or path
        "mini", or a file with a `text` field and optional `subset` and `source`. A built one brings its name, licence
        and description, and may hold a text twice.

    Raises
    ------
    InputError
        If the file is missing, of another kind, or holds an invalid, empty, oversized or repeated text;
        the message names the line.
    """
    if str(which) == MINI:
        return mini()
    path = Path(which).expanduser()
    if not path.is_file():
        raise InputError(
            f"no text set {str(which)!r}: give 'mini', or a JSON Lines or Parquet file with a 'text' field, such as "
            "llreg texts build makes"
        )
    if path.suffix in {".jsonl", ".ndjson", ".json"}:
        items = list(_json_lines(path.read_bytes(), str(path)))
    elif path.suffix in {".parquet", ".pq"}:
        from llreg.recipes.builtfile import read_built

        built = read_built(path)
        if built is not None:
            return built
        items = _parquet_items(path)
    else:
        raise InputError(f"{path}: expected a .jsonl or .parquet file; got {path.suffix or 'no ending'!r}")
    _check_items(items, str(path))
    return make_text_set(valid_name(path.stem), items, licence="unknown")


def mini() -> TextSet:
    """The embedded text set: 128 passages written for llreg, CC0, 8 subsets of 16."""
    data = resources.files("llreg").joinpath("data", "mini.jsonl").read_bytes()
    return make_text_set(
        MINI,
        list(_json_lines(data, "mini.jsonl")),
        licence="CC0-1.0",
        description="128 passages written for llreg: prose, code, data and 16 languages; for trying things out.",
    )


def _json_lines(data: bytes, shown: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{shown}:{number}"
        try:
            item = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: expected UTF-8; {error.reason} at byte {error.start}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: expected one JSON object a line; {error}") from error
        yield check("text", item, where)


def _parquet_items(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = set(pq.read_schema(path).names)
        table = pq.read_table(path, columns=[name for name in ("text", "subset", "source") if name in names])
        rows = table.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a Parquet file; {error}") from error
    if "text" not in names:
        raise InputError(f"{path}: expected a column 'text'; got {', '.join(sorted(names))}")
    return [check("text", item, f"{path}: row {number}") for number, item in enumerate(rows)]


def _check_items(items: Sequence[Mapping[str, Any]], shown: str) -> None:
    if not items:
        raise InputError(f"{shown}: expected at least one text; the file is empty")
    if len(items) > MAX_TEXTS:
        raise InputError(f"{shown}: expected at most {MAX_TEXTS:,} texts; got {len(items):,}")
    seen: dict[str, int] = {}
    for number, item in enumerate(items, 1):
        text = item["text"]
        try:
            size = len(text.encode("utf-8"))
            canonical_json(item).encode("utf-8")
        except UnicodeEncodeError as error:  # a lone surrogate escaped in JSON
            raise InputError(f"{shown}: text {number} is not valid Unicode: {error.reason}") from error
        if size > MAX_TEXT_BYTES:
            raise InputError(f"{shown}: text {number} has {size:,} bytes; at most {MAX_TEXT_BYTES:,} are allowed")
        if not text.strip():
            raise InputError(f"{shown}: text {number} is empty: take it out")
        if text in seen:
            raise InputError(f"{shown}: text {number} repeats text {seen[text]}: take one out")
        seen[text] = number


def without_texts(texts: TextSet) -> TextSet:
    """What may be published of a text set whose licence forbids copying: sizes, hashes, subsets and sources."""
    return replace(texts, texts=[None] * len(texts))


def is_name(text: str) -> bool:
    """Whether `text` can name a text set or registry: ``name`` or ``org/name``."""
    return len(text) <= 200 and _NAME.fullmatch(text) is not None


def valid_name(text: str) -> str:
    """The name of a text set or registry nearest to `text`: letters, digits, ".", "_" and "-"."""
    name = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in text)
    return name.lstrip("._-")[:100] or "unnamed"


_COLUMNS = ("index", "text", "bytes", "sha256", "subset", "source")


def to_parquet(texts: TextSet) -> bytes:
    """``texts.parquet``: columns index, text, bytes, sha256, subset, source."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [range(len(texts)), texts.texts, texts.num_bytes, texts.sha256, texts.subset, texts.source]
    types = [pa.int32(), pa.string(), pa.int32(), pa.string(), pa.string(), pa.string()]
    arrays = [pa.array(list(column), type=kind) for column, kind in zip(columns, types, strict=True)]
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays, names=list(_COLUMNS)), buffer, compression="zstd")
    return buffer.getvalue()


def read_index(path: Path | io.RawIOBase, info: Mapping[str, Any], shown: str) -> TextIndex:
    """Read ``texts.parquet``, or an open file of it, without the texts and check it against the header in registry.json.

    Raises
    ------
    InvalidFileError
        If a column, the number of texts, a size or the text set's id does not fit.
    """
    return _index(_read_columns(path, [name for name in _COLUMNS if name != "text"], shown), info, shown)


def from_parquet(path: Path, info: Mapping[str, Any], shown: str) -> TextSet:
    """Read ``texts.parquet`` and check it, every text's hash too.

    Raises
    ------
    InvalidFileError
        As `read_index`; also if a text is not the one its hash names.
    """
    columns = _read_columns(path, _COLUMNS, shown)
    index = _index(columns, info, shown)
    texts = TextSet(index.info, index.num_bytes, index.sha256, index.subset, index.source, columns["text"])
    for number, (text, digest, size) in enumerate(zip(texts.texts, texts.sha256, texts.num_bytes, strict=True)):
        if text is None:
            continue
        if not isinstance(text, str) or sha256_text(text) != digest:
            raise InvalidFileError(shown, f"text {number} was changed: its sha256 is another", field="text")
        if size != len(text.encode("utf-8")):
            raise InvalidFileError(shown, f"text {number}: expected its UTF-8 bytes; got {size!r}", field="bytes")
    return texts


def _read_columns(path: Path | io.RawIOBase, names: Sequence[str], shown: str) -> dict[str, list[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        there = pq.read_schema(path).names
        missing = [name for name in _COLUMNS if name not in there]
        if missing:
            raise InvalidFileError(shown, f"expected the columns {', '.join(_COLUMNS)}; missing {', '.join(missing)}")
        table = pq.read_table(path, columns=list(names))
        return {name: table[name].to_pylist() for name in names}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidFileError(shown, f"expected a Parquet file; {error}") from error


def _index(columns: Mapping[str, list[Any]], info: Mapping[str, Any], shown: str) -> TextIndex:
    header = TextSetInfo(**info)
    index = TextIndex(header, columns["bytes"], columns["sha256"], columns["subset"], columns["source"])
    if columns["index"] != list(range(len(index))):
        raise InvalidFileError(shown, f"expected 0 to {len(index) - 1} in order", field="index")
    if text_set_id(index.sha256) != header.id:
        raise InvalidFileError(shown, "expected the hashes of the text set in registry.json", field="sha256")
    wrong = next((size for size in index.num_bytes if not isinstance(size, int) or size < 1), None)
    if wrong is not None or abs(sum(index.num_bytes) / len(index) - header.mean_bytes) > 1e-6:
        raise InvalidFileError(shown, f"expected {header.mean_bytes} on average, as in registry.json", field="bytes")
    if Counter(index.subset) != Counter(header.subsets):
        raise InvalidFileError(shown, "expected the subsets in registry.json", field="subset")
    return index
