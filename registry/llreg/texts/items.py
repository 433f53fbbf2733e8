"""Items of a text set as users give them: texts, or pairs of a prompt and a response, from JSON Lines or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llreg.settings import MAX_TEXT_BYTES, MAX_TEXTS
from llreg_schemas import Pair, canonical_json, check, sha256_text
from llreg_schemas.errors import InputError

Text = str | Pair  # what a text set holds: texts only, or pairs only
_COLUMNS = ("text", "prompt", "messages", "response", "subset", "source")


def text_of(item: Mapping[str, Any]) -> Text:
    """The text of an item, or its pair."""
    return Pair.from_json(item) if _is_pair(item) else str(item["text"])


def hash_of(text: Text) -> str:
    """sha256 of a text's UTF-8 bytes, or of a pair, 64 hex digits."""
    return text.sha256 if isinstance(text, Pair) else sha256_text(text)


def size_of(text: Text) -> int:
    """UTF-8 bytes of a text, or of a pair's response."""
    return text.num_bytes if isinstance(text, Pair) else len(text.encode("utf-8"))


def beginning(text: Text | None) -> str:
    """A text, or a pair's response, to show its beginning; "" where it is not copied."""
    return text.response if isinstance(text, Pair) else text or ""


def json_lines(data: bytes, name: str) -> Iterator[dict[str, Any]]:
    """Items of a JSON Lines file; `name` stands for it in messages.

    Raises
    ------
    InputError, InvalidFileError
        If a line is no item; the message names it.
    """
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        location = f"{name}:{number}"
        try:
            item = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"{location}: expected UTF-8; {error.reason} at byte {error.start}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{location}: expected one JSON object a line; {error}") from error
        yield _check_item(item, location)


def parquet_items(path: Path) -> list[dict[str, Any]]:
    """Items of a Parquet file.

    Raises
    ------
    InputError, InvalidFileError
        If it is none, or a row is no item.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = set(pq.read_schema(path).names)
        rows = pq.read_table(path, columns=[name for name in _COLUMNS if name in names]).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a Parquet file; {error}") from error
    if names.isdisjoint(("text", "response")):
        raise InputError(
            f"{path}: expected a column 'text'; got {', '.join(sorted(names))} (for pairs: 'prompt' and 'response')"
        )
    for row in rows:
        # A registry's texts.parquet has prompts that are conversations in a column of their own.
        messages = row.pop("messages", None)
        if messages is not None and row.get("prompt") is None:
            row["prompt"] = messages
    return [_check_item(row, f"{path}: row {number}") for number, row in enumerate(rows)]


def _check_item(item: Any, location: str) -> dict[str, Any]:
    """An item that fits its schema, ``pair.schema.json`` or ``text.schema.json``."""
    return check("pair" if isinstance(item, dict) and _is_pair(item) else "text", item, location)


def _is_pair(item: Mapping[str, Any]) -> bool:
    """Whether an item is a pair: it has a prompt or a response, and no text."""
    return item.get("text") is None and not item.keys().isdisjoint(("prompt", "response"))


def check_items(items: Sequence[Mapping[str, Any]], name: str) -> None:
    """Refuse items that make no text set: none, of both kinds, too large, empty or repeated.

    Raises
    ------
    InputError
        The message begins with `name`, and says which item it is.
    """
    if not items:
        raise InputError(f"{name}: expected at least one text; the file is empty")
    if len(items) > MAX_TEXTS:
        raise InputError(f"{name}: expected at most {MAX_TEXTS:,} texts; got {len(items):,}")
    has_pairs = _is_pair(items[0])
    kind = "pair" if has_pairs else "text"
    numbers: dict[str, int] = {}  # of the first item with a hash
    for number, item in enumerate(items, 1):
        if _is_pair(item) != has_pairs:
            raise InputError(
                f"{name}: item {number} is {'a text' if has_pairs else 'a pair'} and item 1 is not: a text set holds texts "
                "only, or pairs of prompt and response only"
            )
        location = f"{name}: {kind} {number}"
        try:
            canonical_json(item).encode("utf-8")
        except UnicodeEncodeError as error:  # a lone surrogate escaped in JSON
            raise InputError(f"{location} is not valid Unicode: {error.reason}") from error
        text = text_of(item)
        size, content = size_of(text), text
        if isinstance(text, Pair):
            size, content = max(size, text.prompt_bytes), text.response
            if text.messages[-1]["role"] != "user":
                raise InputError(
                    f"{location}: expected a prompt that ends with a message of the user; got {text.messages[-1]['role']}"
                )
        if size > MAX_TEXT_BYTES:
            raise InputError(f"{location} has {size:,} bytes; at most {MAX_TEXT_BYTES:,} are allowed")
        if not str(content).strip():
            raise InputError(f"{location} is empty: take it out")
        first = numbers.setdefault(hash_of(text), number)
        if first != number:
            raise InputError(f"{location} repeats {kind} {first}: take one out")
