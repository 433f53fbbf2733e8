"""The description of new rows: what stands in it, for any number of rows, and whatever strangers are called."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from llreg.hub.client.markdown import code, link, prose, table
from llreg.hub.judge.describe import describe
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row

MakeRow = Callable[..., Row]
Fill = Callable[..., list[Row]]


def test_a_row_among_others(small_registry: Registry, fill: Fill, make_row: MakeRow) -> None:
    fill(small_registry, 6)
    row = make_row(
        small_registry,
        "bob/model",
        20,
        log_likelihood=[-20, np.nan, -30, -40, -50, -60],
        weight_dtype="bfloat16",
        quantization="gptq",
        declared={"base_model": ["org/m3", "org/gone"]},
    )
    write_row(small_registry.path, row)
    told = describe(small_registry, [row.record])
    sha = row.record.identity.revision
    assert told.startswith("Adds one row, protocol `modelmap-1`")
    assert small_registry.info["text_set"]["id"][:12] in told
    assert f"[`{sha[:10]}`](https://huggingface.co/bob/model/tree/{sha})" in told
    for part in ("`bfloat16` `gptq`", "5 of 6; 1 over the context", "`cpu` `a test`", "`torch 2.13.0+cpu`", "`Ada`"):
        assert part in told
    found = small_registry.neighbors("bob/model", 3)
    for other in found.nearest:
        assert f"`{other.row_id}` {other.kl:.6f} ± {other.kl_se:.6f}" in told
    (base,) = found.bases or [other for other in found.nearest if other.model == "org/m3"]
    assert f"`{base.row_id}` {base.kl:.6f} ± {base.kl_se:.6f} (declared base), number {base.rank}" in told
    assert "`org/gone` has no row here" in told
    assert "<" not in told


@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_any_number_of_rows(small_registry: Registry, fill: Fill, count: int) -> None:
    rows = fill(small_registry, count)
    told = describe(small_registry, [row.record for row in rows])
    shown = [row for row in rows if told.count(f"| `{row.record.row_id}` |") == 2]
    assert len(shown) == min(count, 30)
    assert ("… and 70 more." in told) is (count == 100)
    assert ("no other row is here" in told) is (count == 1)
    assert (" (new)" in told or "; new)" in told) is (count > 1)
    assert len(told) < 30_000


def test_a_local_gguf_file(small_registry: Registry, make_row: MakeRow) -> None:
    over = {"source": "local", "revision": "sha256:" + "a" * 64, "file": "model.Q4_0.gguf", "quantization": "gguf:Q4_0"}
    row = make_row(small_registry, "mine", 3, **over)
    write_row(small_registry.path, row)
    told = describe(small_registry, [row.record])
    assert "`sha256:aaaaaaaaaa` (`local`) `model.Q4_0.gguf`" in told
    assert "](http" not in told


def test_strangers_words_are_code(small_registry: Registry, make_row: MakeRow) -> None:
    hostile = "`|<script>alert(1)</script> [x](http://evil) @alice *b* <!-- "
    row = make_row(
        small_registry,
        "bob/model",
        3,
        provenance={"contributor": hostile, "device": {"type": "cpu", "name": hostile}},
    )
    write_row(small_registry.path, row)
    told = describe(small_registry, [row.record])
    assert not {"<", ">"} & set(told)
    for line in told.splitlines():
        assert line.count("`") % 2 == 0
        assert line.count("|") in (0, 5, 9)  # no cell was broken
        assert not re.search(r"evil|@alice|script", re.sub("`[^`]*`", "", line))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "`plain`"),
        ("", "-"),
        ("a`b|c<d>", "`a'b¦c\u2039d\u203a`"),
        ("two\nlines", "`two\\nlines`"),
        ("x" * 200, "`" + "x" * 159 + "…`"),
    ],
)
def test_code(text: str, expected: str) -> None:
    assert code(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b *c* [d](e)", "a\\_b \\*c\\* \\[d\\](e)"),
        ("of org/m1@0123abcd: see", "of `org/m1@0123abcd`: see"),
        ("(https://evil.example/x).", "(`https://evil.example/x`)."),
        ("WWW.evil.example, and", "`WWW.evil.example`, and"),
        ("<b>&amp;", "\u2039b\u203a\\&amp;"),
    ],
)
def test_prose(text: str, expected: str) -> None:
    assert prose(text) == expected


def test_a_link_and_a_table() -> None:
    assert link("`a`", "https://hub/x y)[") == "[`a`](https://hub/x%20y%29%5B)"
    assert table(["a", "b"], [["1", "2"]], right=(1,)) == "| a | b |\n| --- | --: |\n| 1 | 2 |"
