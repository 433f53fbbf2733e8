"""Text sets: N texts, or (prompt, response) pairs, in a fixed order; their files, and the embedded set `mini`.

Three kinds of files hold one: a user's own JSON Lines or Parquet file; what `llreg texts build` makes, Parquet with the
recipe in its metadata; and a registry's ``texts.parquet``, with sizes and hashes, where a text may be left out.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg.names import valid_name
from llreg.texts.items import Text, check_items, hash_of, json_lines, parquet_items, size_of, text_of
from llreg.texts.recipe import Recipe, read_recipe
from llreg.texts.segments import Cuts
from llreg_schemas import Pair, TextSetInfo, check, text_set_id
from llreg_schemas.errors import InputError, InvalidFileError, NotFoundError
from llreg_schemas.pairs import ROLES
from llreg_schemas.records import PAIRS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MINI = "mini"

# Columns of a registry's texts.parquet. A set of pairs has the further ones, and its column text is null.
_COLUMNS = ("index", "text", "bytes", "sha256", "subset", "source")
_PAIR_COLUMNS = (*_COLUMNS, "prompt", "messages", "response", "prompt_bytes")
_CONTENT = frozenset({"text", "prompt", "messages", "response"})  # what an index does without
_CUTS = "segment_bytes"  # of a registry whose texts are cut into segments, last

# Columns and metadata of a built file.
_BUILT_COLUMNS = ("text", "subset", "source")
_RECIPE, _NAME, _LICENCE = b"llreg.recipe", b"llreg.name", b"llreg.licence"


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
    cuts : Cuts or None
        Of a registry's text set its segments; None in one of format 1.
    """

    texts: Sequence[Text | None] = ()
    recipe: Mapping[str, Any] | None = None
    cuts: Cuts | None = None

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
    prompt_sizes = [text.prompt_bytes for text in texts if isinstance(text, Pair)]
    subsets = [item.get("subset") or "all" for item in items]
    info = TextSetInfo(
        id=text_set_id(hashes),
        name=name,
        licence=licence,
        num_texts=len(texts),
        mean_bytes=sum(sizes) / len(sizes),
        subsets=dict(Counter(subsets)),
        description=description,
        kind=PAIRS if prompt_sizes else None,
        mean_prompt_bytes=sum(prompt_sizes) / len(prompt_sizes) if prompt_sizes else None,
    )
    sources = [item.get("source") or "" for item in items]
    return TextSet(info, sizes, hashes, subsets, sources, prompt_sizes, texts)


def without_texts(texts: TextSet) -> TextSet:
    """What may be published of a text set whose licence forbids copying: sizes, hashes, subsets and sources."""
    return replace(texts, texts=[None] * len(texts))


# A user's file, and the embedded set


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
        built = read_built(path)
        if built is not None:
            return built  # its texts may repeat, and were checked against its id
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


# The file of a built text set


def built_to_parquet(texts: TextSet, recipe: Recipe) -> bytes:
    """The file of a text set and the recipe it was built by; equal ones give equal bytes with the same pyarrow."""
    import pyarrow as pa

    columns = [pa.array(list(column), type=pa.string()) for column in (texts.texts, texts.subset, texts.source)]
    metadata = {_RECIPE: recipe.to_text().encode(), _NAME: recipe.name.encode(), _LICENCE: recipe.licence.encode()}
    return _to_bytes(pa.table(columns, names=list(_BUILT_COLUMNS)).replace_schema_metadata(metadata))


def read_built(path: Path) -> TextSet | None:
    """The text set in a built file; None if the Parquet file is none.

    Texts may repeat and may be blank, if the recipe has it so: a published set is what it is.

    Raises
    ------
    InputError
        If the texts are not those that were built.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
        if _RECIPE not in metadata:
            return None
        rows = pq.read_table(path, columns=list(_BUILT_COLUMNS)).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a Parquet file; {error}") from error
    try:  # a user's file, not a registry's: what is wrong with it is wrong input
        recipe = read_recipe(metadata[_RECIPE], f"{path}: llreg.recipe")
        rows = [check("text", row, f"{path}: row {number}") for number, row in enumerate(rows)]
    except InvalidFileError as error:
        raise InputError(str(error)) from error
    if not rows:
        raise InputError(f"{path}: expected at least one text; the file is empty")
    texts = make_text_set(recipe.name, rows, licence=recipe.licence, description=recipe.description)
    if texts.info.id != recipe.expect.text_set:
        raise InputError(f"{path}: the texts were changed after they were built; build them again: llreg texts build")
    return replace(texts, recipe=recipe.to_json())


# A registry's texts.parquet


def to_parquet(texts: TextSet) -> bytes:
    """``texts.parquet``: columns index, text, bytes, sha256, subset, source; of pairs four more, and text is null.

    These are prompt and messages, of which one is null (a prompt is a string or a conversation), response, prompt_bytes.
    Where the text set has cuts, a last column segment_bytes lists them.
    """
    import pyarrow as pa

    items = texts.texts
    pairs = [item if isinstance(item, Pair) else None for item in items] if texts.has_pairs else []
    message_type = pa.struct([("role", pa.string()), ("content", pa.string())])
    columns: dict[str, tuple[pa.DataType, Sequence[Any]]] = {
        "index": (pa.int32(), range(len(texts))),
        "text": (pa.string(), [item if isinstance(item, str) else None for item in items]),
        "bytes": (pa.int32(), texts.num_bytes),
        "sha256": (pa.string(), texts.sha256),
        "subset": (pa.string(), texts.subset),
        "source": (pa.string(), texts.source),
        "prompt": (pa.string(), [pair.prompt if pair and isinstance(pair.prompt, str) else None for pair in pairs]),
        "messages": (
            pa.list_(message_type),
            [None if pair is None or isinstance(pair.prompt, str) else pair.messages for pair in pairs],
        ),
        "response": (pa.string(), [None if pair is None else pair.response for pair in pairs]),
        "prompt_bytes": (pa.int32(), texts.prompt_bytes),
    }
    names = _PAIR_COLUMNS if texts.has_pairs else _COLUMNS
    arrays = [pa.array(list(columns[name][1]), type=columns[name][0]) for name in names]
    if texts.cuts is not None:
        names = (*names, _CUTS)
        arrays.append(pa.ListArray.from_arrays(pa.array(texts.cuts.first, pa.int32()), pa.array(texts.cuts.sizes)))
    return _to_bytes(pa.table(arrays, names=list(names)))


def _to_bytes(table: Any) -> bytes:
    """A pyarrow table as the bytes of a Parquet file."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_index(path: Path | io.RawIOBase, info: Mapping[str, Any], name: str) -> TextIndex:
    """Read ``texts.parquet``, or an open file of it, without the texts and check it against the header in registry.json.

    Raises
    ------
    InvalidFileError
        If a column, the number of texts, a size or the text set's id does not fit; `name` is the file's in the message.
    """
    return _index(_read_columns(path, info, name, content=False), info, name)


def read_cuts(path: Path | io.RawIOBase, document: Mapping[str, Any], index: TextIndex, name: str) -> Cuts:
    """Read how texts are cut into segments from ``texts.parquet``, or an open file of it, and check it.

    Parameters
    ----------
    path : Path or file
    document : mapping
        What registry.json says of segments.
    index : TextIndex
    name : str
        The file's, in messages.

    Raises
    ------
    InvalidFileError
        If the cuts are missing, are not those that registry.json names, or are not of the texts.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        if _CUTS not in file.schema_arrow.names:
            raise InvalidFileError(name, "expected this column, as registry.json says; it is missing", field=_CUTS)
        column = file.read(columns=[_CUTS])[_CUTS].combine_chunks()
        is_lists = pa.types.is_list(column.type) and pa.types.is_integer(column.type.value_type)
        if not is_lists or column.null_count or column.flatten().null_count:
            raise InvalidFileError(name, "expected a list of integers a text", field=_CUTS)
        sizes = column.flatten().cast(pa.int32()).to_numpy()  # (n_segments,)
        lengths = column.value_lengths().to_numpy()  # (n_texts,)
    except KeyError:
        raise InvalidFileError(
            name, "expected this column, as registry.json says; it is missing", field=_CUTS
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise InvalidFileError(name, f"expected a Parquet file; {error}", field=_CUTS) from error
    cuts = Cuts(sizes, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
    if cuts.num_segments != document["num_segments"] or cuts.sha256 != document["sha256"]:
        raise InvalidFileError(name, "expected the segments in registry.json", field=_CUTS)
    # Then they are those that registry.json was made with; what follows are faults of whoever made it.
    if len(lengths) != len(index) or not lengths.all() or (sizes < 0).any():
        raise InvalidFileError(name, "expected at least one segment a text, of 0 bytes or more", field=_CUTS)
    if not np.array_equal(cuts.sums(sizes), index.num_bytes):
        raise InvalidFileError(name, "expected segments that have the texts' bytes together", field=_CUTS)
    return cuts


def from_parquet(
    path: Path, info: Mapping[str, Any], name: str, *, segments: Mapping[str, Any] | None = None
) -> TextSet:
    """Read ``texts.parquet`` and check it, every text's hash too, and its cuts where registry.json has `segments`.

    Raises
    ------
    InvalidFileError
        As `read_index` and `read_cuts`; also if a text is not the one its hash names, or is not cut by the rule.
    """
    import numpy as np

    columns = _read_columns(path, info, name, content=True)
    index = _index(columns, info, name)
    items = _pairs(columns, name) if index.has_pairs else columns["text"]
    texts = TextSet(index.info, index.num_bytes, index.sha256, index.subset, index.source, index.prompt_bytes, items)
    kind = Pair if index.has_pairs else str
    for number, (text, digest, size) in enumerate(zip(texts.texts, texts.sha256, texts.num_bytes, strict=True)):
        if text is None:
            continue
        if not isinstance(text, kind) or hash_of(text) != digest:
            raise InvalidFileError(name, f"text {number} was changed: its sha256 is another", field="text")
        if size != size_of(text):
            raise InvalidFileError(name, f"text {number}: expected its UTF-8 bytes; got {size!r}", field="bytes")
        if isinstance(text, Pair) and index.prompt_bytes[number] != text.prompt_bytes:
            raise InvalidFileError(name, f"text {number}: expected the prompt's UTF-8 bytes", field="prompt_bytes")
    if segments is None:
        return texts
    cuts = read_cuts(path, segments, index, name)
    here = [number for number, text in enumerate(texts.texts) if text is not None]
    by_rule = Cuts.of(texts.complete(here), segments)
    for k, number in enumerate(here):
        if not np.array_equal(by_rule.starts(k), cuts.starts(number)):
            raise InvalidFileError(name, f"text {number}: expected the segments of the rule", field=_CUTS)
    return replace(texts, cuts=cuts)


def _read_columns(
    path: Path | io.RawIOBase, info: Mapping[str, Any], name: str, *, content: bool
) -> dict[str, list[Any]]:
    """Columns of ``texts.parquet``, those that hold the texts only if asked for `content`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    expected = _PAIR_COLUMNS if info.get("kind") == PAIRS else _COLUMNS
    try:
        present = pq.read_schema(path).names
        missing = [column for column in expected if column not in present]
        if missing:
            raise InvalidFileError(name, f"expected the columns {', '.join(expected)}; missing {', '.join(missing)}")
        columns = [column for column in expected if content or column not in _CONTENT]
        table = pq.read_table(path, columns=columns)
        return {column: table[column].to_pylist() for column in columns}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidFileError(name, f"expected a Parquet file; {error}") from error


def _index(columns: Mapping[str, list[Any]], info: Mapping[str, Any], name: str) -> TextIndex:
    """The index in columns of ``texts.parquet``, if it is the one that the header describes."""
    header = TextSetInfo(**info)
    sizes, prompt_sizes = columns["bytes"], columns.get("prompt_bytes", [])
    index = TextIndex(header, sizes, columns["sha256"], columns["subset"], columns["source"], prompt_sizes)
    # Each column must be what registry.json says of it, so that a row's values are of the texts that it names.
    if columns["index"] != list(range(len(index))):
        raise InvalidFileError(name, f"expected 0 to {len(index) - 1} in order", field="index")
    if text_set_id(index.sha256) != header.id:
        raise InvalidFileError(name, "expected the hashes of the text set in registry.json", field="sha256")

    def check_sizes(column: str, sizes: Sequence[Any], smallest: int, mean: float) -> None:
        whole = all(isinstance(size, int) and size >= smallest for size in sizes)
        if not whole or abs(sum(sizes) / len(index) - mean) > 1e-6:
            raise InvalidFileError(name, f"expected {mean} on average, as in registry.json", field=column)

    check_sizes("bytes", sizes, 1, header.mean_bytes)
    if index.has_pairs:
        check_sizes("prompt_bytes", prompt_sizes, 0, header.mean_prompt_bytes or 0.0)
    if Counter(index.subset) != Counter(header.subsets):
        raise InvalidFileError(name, "expected the subsets in registry.json", field="subset")
    return index


def _pairs(columns: Mapping[str, list[Any]], name: str) -> list[Pair | None]:
    """The pairs in columns of ``texts.parquet``; None where all three parts are null."""
    pairs: list[Pair | None] = []
    rows = zip(columns["prompt"], columns["messages"], columns["response"], strict=True)
    for number, (prompt, messages, response) in enumerate(rows):
        if prompt is None and messages is None and response is None:
            pairs.append(None)
            continue
        # What pair.schema.json says, by hand: the schema takes seconds for 10,000 pairs.
        if prompt is not None:
            is_prompt = isinstance(prompt, str) and messages is None
        else:
            is_prompt = isinstance(messages, list) and bool(messages)
            is_prompt = is_prompt and all(
                isinstance(message, dict) and message.get("role") in ROLES and isinstance(message.get("content"), str)
                for message in messages
            )
        if not isinstance(response, str) or not is_prompt:
            raise InvalidFileError(
                name, f"text {number}: expected a response, and either a prompt or messages", field="messages"
            )
        pairs.append(Pair.from_json({"prompt": messages if prompt is None else prompt, "response": response}))
    return pairs
