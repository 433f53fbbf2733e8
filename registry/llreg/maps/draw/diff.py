"""The page of two models: every text coloured by which of them predicts it better where; one HTML file."""

from __future__ import annotations

import html
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.atomic import write_output
from llreg.maps.draw.onefile import asset, joined_scripts, packed, packed_indices, printable, script_json, whole_page

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.kl.spans import Spans

_MOST_SEGMENTS = (
    100_000  # a page of some 3 MB of text, and twice that as a file; beyond it, texts of least share are left out
)
_SCRIPTS = ("page_format.js", "page_arrays.js", "diff.js")
_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def write_diff(spans: Spans, path: Path | str) -> None:
    """Write the page of two models as one self-contained HTML file.

    Parameters
    ----------
    spans : Spans
        What to show. Its names and texts are treated as untrusted.
    path : Path or str
        The file; replaced whole or not at all.

    Raises
    ------
    InputError, StorageError
        If the file cannot be written.
    """
    write_output(Path(path), diff_html(spans).encode("utf-8"))


def diff_html(spans: Spans, *, most_segments: int = _MOST_SEGMENTS) -> str:
    """The page of `write_diff` as text; the same rows give the same text.

    Parameters
    ----------
    spans : Spans
    most_segments : int
        Of the texts that the page holds. Beyond it those that carry least of the KL are left out, and the page says so.
    """
    first, second = spans.rows.labels
    rows = spans.rows
    facts = (
        ("first", rows.row_ids[0]),
        ("second", rows.row_ids[1]),
        ("registry", rows.registry),
        ("version", rows.version[:12]),
        ("view", f"{rows.view.id[:12]} ({rows.view.describe()})"),
    )
    parts = {
        "title": html.escape(printable(f"{first} and {second}")),
        "style": asset("base.css") + asset("diff.css"),
        "facts": "".join(f"<div><dt>{name}</dt><dd>{html.escape(printable(fact))}</dd></div>" for name, fact in facts),
        "data": script_json(diff_payload(spans, most_segments)),
    }
    return whole_page("diff.html", parts, {"script": joined_scripts(_SCRIPTS)})


def diff_payload(spans: Spans, most_segments: int = _MOST_SEGMENTS) -> dict[str, Any]:
    """What the page's script reads: JSON-able, numbers as `packed` has them.

    Texts come by their share of the KL, largest first, and so do their segments' arrays, one text after the other.
    """
    rows = spans.rows
    num_texts = len(rows.texts)
    first = np.searchsorted(spans.text, np.arange(num_texts + 1))  # segment at which each text begins
    shares = np.add.reduceat(spans.share, first[:-1])  # (n_texts,)
    order = np.argsort(-shares, kind="stable")
    order = order[: max(1, int(np.searchsorted(np.cumsum(np.diff(first)[order]), most_segments, side="right")))]
    segments = np.concatenate([np.arange(first[text], first[text + 1]) for text in order])
    subsets = [subset["subset"] for subset in spans.subsets]
    return {
        "names": list(rows.labels),
        "kl": [spans.kl, spans.kl_se],
        "mark": spans.mark,
        "numTexts": num_texts,
        "shownShare": float(shares[order].sum()),
        "subsets": [
            {
                "name": subset["subset"],
                "texts": subset["num_texts"],
                "share": subset["share"],
                "kl": [_finite(subset["kl_bits_per_byte"]), _finite(subset["kl_bits_per_byte_se"])],
                "bits": subset["bits_per_byte"],
            }
            for subset in spans.subsets
        ],
        "bits": spans.bits_per_byte,
        "texts": {
            "index": packed_indices(rows.texts[order]),
            "subset": packed_indices([subsets.index(rows.subsets[text]) for text in order]),
            "count": packed_indices(np.diff(first)[order]),
            "pieces": [_pieces(spans, text, slice(first[text], first[text + 1])) for text in order],
        },
        "segments": {
            "size": packed_indices(spans.size[segments]),
            "first": packed(spans.log_likelihood[0, segments], "f4"),
            "second": packed(spans.log_likelihood[1, segments], "f4"),
            "deviation": packed(spans.deviation[segments], "f4"),
            "share": packed(spans.share[segments], "f4"),
        },
        "spans": [
            [span["text"], span["start"], span["end"], span["difference"], span["share"]] for span in spans.spans
        ],
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _pieces(spans: Spans, text: int, segments: slice) -> list[str] | None:
    """What stands in each segment of a text; None where the text is not on this machine."""
    passage = spans.passages[text]
    if passage is None:
        return None
    data = passage.encode("utf-8")
    ends: NDArray[np.int64] = spans.start[segments] + spans.size[segments]
    return [visible(data[start:end].decode("utf-8")) for start, end in zip(spans.start[segments], ends, strict=True)]


def visible(text: str) -> str:
    """A text as a page may show it: lines and tabs stay, other control characters become their pictures.

    Characters that reorder or end what stands around them become U+FFFD.
    """
    return "".join(map(_visible, text)) if not text.isprintable() else text


def _visible(char: str) -> str:
    if char in "\n\t":
        return char
    if char < " ":
        return chr(0x2400 + ord(char))  # as ␍ for a carriage return
    if char == "\x7f":
        return "\N{SYMBOL FOR DELETE}"
    hidden = char in _REORDERING or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
    return "\N{REPLACEMENT CHARACTER}" if hidden else char
