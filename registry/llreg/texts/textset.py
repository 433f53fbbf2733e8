"""Text sets: N texts, or (prompt, response) pairs, in a fixed order: JSON Lines, Parquet, or the embedded set `mini`."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg.texts.items import Text, check_items, hash_of, json_lines, parquet_items, size_of, text_of
from llreg_schemas import Pair, TextSetInfo, text_set_id
from llreg_schemas.errors import InputError, InvalidFileError, NotFoundError
from llreg_schemas.pairs import ROLES
from llreg_schemas.records import PAIRS

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
        UTF-8 bytes of each text, or of each pair's response.
    sha256, subset, source : sequence of str
        Hash of each text's UTF-8 bytes (of a pair see `llreg_schemas.Pair`), its subset, and where it comes from.
    prompt_bytes : sequence of int
        UTF-8 bytes of each pair's prompt; empty where there are no pairs.
    """

    info: TextSetInfo
    num_bytes: Sequence[int]
    sha256: Sequence[str]
    subset: Sequence[str]
    source: Sequence[str]
    prompt_bytes: Sequence[int] = ()

    def __len__(self) -> int:
        return self.info.num_texts

    @property
    def has_pairs(self) -> bool:
        """Whether it holds (prompt, response) pairs."""
        return self.info.kind == PAIRS

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
    texts : sequence of str, Pair or None
        None where a licence forbids copying the text.
    recipe : mapping, optional
        How it was built, where it comes from `llreg texts build`.
    """

    texts: Sequence[Text | None] = ()
    recipe: Mapping[str, Any] | None = None

    def complete(self, indices: Sequence[int] | None = None) -> list[Any]:
        """Every text, or those at some indices: list of str, or of `llreg_schemas.Pair`.

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
    """A text set from mappings with `text`, or all with `prompt` and `response`, and optional `subset` and `source`."""
    texts = [text_of(item) for item in items]
    hashes = [hash_of(text) for text in texts]
    sizes = [size_of(text) for text in texts]
    prompts = [text.prompt_bytes for text in texts if isinstance(text, Pair)]
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
        kind=PAIRS if prompts else None,
        mean_prompt_bytes=sum(prompts) / len(prompts) if prompts else None,
    )
    return TextSet(info, sizes, hashes, subset, [item.get("source") or "" for item in items], prompts, texts)


def load_texts(which: str | Path) -> TextSet:
    """The embedded set `mini`, a file that `llreg texts build` made, or a user's JSON Lines or Parquet file.

    Parameters
    ----------
    which : str or path
        "mini", or a file with a `text` field, or all through with `prompt` (a string, or a list of messages with role
        and content) and `response`, and optional `subset` and `source`. A built one brings its name, licence and
        description, and may hold a text twice.

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
            "llreg texts build makes, or with 'prompt' and 'response'"
        )
    if path.suffix in {".jsonl", ".ndjson", ".json"}:
        items = list(json_lines(path.read_bytes(), str(path)))
    elif path.suffix in {".parquet", ".pq"}:
        from llreg.texts.builtfile import read_built

        built = read_built(path)
        if built is not None:
            return built
        items = parquet_items(path)
    else:
        raise InputError(f"{path}: expected a .jsonl or .parquet file; got {path.suffix or 'no ending'!r}")
    check_items(items, str(path))
    return make_text_set(valid_name(path.stem), items, licence="unknown")


def mini() -> TextSet:
    """The embedded text set: 128 passages written for llreg, CC0, 8 subsets of 16."""
    data = resources.files("llreg.texts").joinpath("data", "mini.jsonl").read_bytes()
    return make_text_set(
        MINI,
        list(json_lines(data, "mini.jsonl")),
        licence="CC0-1.0",
        description="128 passages written for llreg: prose, code, data and 16 languages; for trying things out.",
    )


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
_OF_PAIRS = ("prompt", "messages", "response", "prompt_bytes")  # further columns of a set of pairs; its text is null
_CONTENT = ("text", "prompt", "messages", "response")  # columns that an index does without


def _columns(*, pairs: bool) -> tuple[str, ...]:
    return (*_COLUMNS, *_OF_PAIRS) if pairs else _COLUMNS


def to_parquet(texts: TextSet) -> bytes:
    """``texts.parquet``: columns index, text, bytes, sha256, subset, source; of pairs four more, and text is null.

    These are prompt and messages, of which one is null (a prompt is a string or a conversation), response, prompt_bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    items = texts.texts
    pairs = [item if isinstance(item, Pair) else None for item in items] if texts.has_pairs else []
    columns: dict[str, tuple[pa.DataType, Sequence[Any]]] = {
        "index": (pa.int32(), range(len(texts))),
        "text": (pa.string(), [item if isinstance(item, str) else None for item in items]),
        "bytes": (pa.int32(), texts.num_bytes),
        "sha256": (pa.string(), texts.sha256),
        "subset": (pa.string(), texts.subset),
        "source": (pa.string(), texts.source),
        "prompt": (pa.string(), [pair.prompt if pair and isinstance(pair.prompt, str) else None for pair in pairs]),
        "messages": (
            pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
            [None if pair is None or isinstance(pair.prompt, str) else pair.messages for pair in pairs],
        ),
        "response": (pa.string(), [None if pair is None else pair.response for pair in pairs]),
        "prompt_bytes": (pa.int32(), texts.prompt_bytes),
    }
    names = _columns(pairs=texts.has_pairs)
    arrays = [pa.array(list(columns[name][1]), type=columns[name][0]) for name in names]
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays, names=list(names)), buffer, compression="zstd")
    return buffer.getvalue()


def read_index(path: Path | io.RawIOBase, info: Mapping[str, Any], shown: str) -> TextIndex:
    """Read ``texts.parquet``, or an open file of it, without the texts and check it against the header in registry.json.

    Raises
    ------
    InvalidFileError
        If a column, the number of texts, a size or the text set's id does not fit.
    """
    return _index(_read_columns(path, info, shown, without=_CONTENT), info, shown)


def from_parquet(path: Path, info: Mapping[str, Any], shown: str) -> TextSet:
    """Read ``texts.parquet`` and check it, every text's hash too.

    Raises
    ------
    InvalidFileError
        As `read_index`; also if a text is not the one its hash names.
    """
    columns = _read_columns(path, info, shown)
    index = _index(columns, info, shown)
    items = _pairs(columns, shown) if index.has_pairs else columns["text"]
    texts = TextSet(index.info, index.num_bytes, index.sha256, index.subset, index.source, index.prompt_bytes, items)
    kind = Pair if index.has_pairs else str
    for number, (text, digest, size) in enumerate(zip(texts.texts, texts.sha256, texts.num_bytes, strict=True)):
        if text is None:
            continue
        if not isinstance(text, kind) or hash_of(text) != digest:
            raise InvalidFileError(shown, f"text {number} was changed: its sha256 is another", field="text")
        if size != size_of(text):
            raise InvalidFileError(shown, f"text {number}: expected its UTF-8 bytes; got {size!r}", field="bytes")
        if isinstance(text, Pair) and index.prompt_bytes[number] != text.prompt_bytes:
            raise InvalidFileError(shown, f"text {number}: expected the prompt's UTF-8 bytes", field="prompt_bytes")
    return texts


def _pairs(columns: Mapping[str, list[Any]], shown: str) -> list[Pair | None]:
    found: list[Pair | None] = []
    rows = zip(columns["prompt"], columns["messages"], columns["response"], strict=True)
    for number, (prompt, messages, response) in enumerate(rows):
        if prompt is None and messages is None and response is None:
            found.append(None)
            continue
        if not (isinstance(response, str) and _is_prompt(prompt, messages)):
            raise InvalidFileError(
                shown, f"text {number}: expected a response, and either a prompt or messages", field="messages"
            )
        found.append(Pair.from_json({"prompt": messages if prompt is None else prompt, "response": response}))
    return found


def _is_prompt(prompt: Any, messages: Any) -> bool:
    """Whether a prompt is as ``pair.schema.json`` has it; told here, for the schema takes seconds for 10,000 pairs."""
    if prompt is not None:
        return isinstance(prompt, str) and messages is None
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(isinstance(message, dict) and message.get("role") in ROLES for message in messages)
        and all(isinstance(message.get("content"), str) for message in messages)
    )


def _read_columns(
    path: Path | io.RawIOBase, info: Mapping[str, Any], shown: str, *, without: Sequence[str] = ()
) -> dict[str, list[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    expected = _columns(pairs=info.get("kind") == PAIRS)
    try:
        there = pq.read_schema(path).names
        missing = [name for name in expected if name not in there]
        if missing:
            raise InvalidFileError(shown, f"expected the columns {', '.join(expected)}; missing {', '.join(missing)}")
        names = [name for name in expected if name not in without]
        table = pq.read_table(path, columns=names)
        return {name: table[name].to_pylist() for name in names}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidFileError(shown, f"expected a Parquet file; {error}") from error


def _index(columns: Mapping[str, list[Any]], info: Mapping[str, Any], shown: str) -> TextIndex:
    header = TextSetInfo(**info)
    index = TextIndex(
        header,
        columns["bytes"],
        columns["sha256"],
        columns["subset"],
        columns["source"],
        columns.get("prompt_bytes", []),
    )
    if columns["index"] != list(range(len(index))):
        raise InvalidFileError(shown, f"expected 0 to {len(index) - 1} in order", field="index")
    if text_set_id(index.sha256) != header.id:
        raise InvalidFileError(shown, "expected the hashes of the text set in registry.json", field="sha256")
    wrong = next((size for size in index.num_bytes if not isinstance(size, int) or size < 1), None)
    if wrong is not None or abs(sum(index.num_bytes) / len(index) - header.mean_bytes) > 1e-6:
        raise InvalidFileError(shown, f"expected {header.mean_bytes} on average, as in registry.json", field="bytes")
    if index.has_pairs:
        _check_prompt_bytes(index, shown)
    if Counter(index.subset) != Counter(header.subsets):
        raise InvalidFileError(shown, "expected the subsets in registry.json", field="subset")
    return index


def _check_prompt_bytes(index: TextIndex, shown: str) -> None:
    sizes, mean = index.prompt_bytes, index.info.mean_prompt_bytes or 0.0
    wrong = any(not isinstance(size, int) or size < 0 for size in sizes)
    if wrong or abs(sum(sizes) / len(index) - mean) > 1e-6:
        raise InvalidFileError(shown, f"expected {mean} on average, as in registry.json", field="prompt_bytes")
