"""Pairs of rows as `llreg dist` lists them, and where two of them differ."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from llreg.geometry.kl.contrast import contrast
from llreg.geometry.kl.pairs import COLUMNS, list_pairs
from llreg.geometry.view.view import View
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row
from llreg_schemas.errors import InputError

MakeRow = Callable[..., Row]
Fill = Callable[..., list[Row]]


@pytest.fixture
def filled(registry: Registry, fill: Fill) -> Registry:
    """Three rows."""
    fill(registry, 3)
    return registry


def test_all_pairs_in_order(filled: Registry) -> None:
    found = list_pairs(filled)
    ids = [record.row_id for record in filled.records()]
    assert [(pair["model"], pair["other"]) for pair in found.pairs] == [
        (ids[i], ids[j]) for i, j in [(0, 1), (0, 2), (1, 2)]
    ]
    result = filled.kl()
    for pair, (i, j) in zip(found.pairs, [(0, 1), (0, 2), (1, 2)], strict=True):
        assert pair["kl"] == result["kl_bits_per_byte"].values[i, j]
        assert pair["se"] == result["kl_bits_per_byte_se"].values[i, j]
        assert pair["tail_share"] == result["tail_share"].values[i, j]
        assert (pair["num_texts"], pair["unit"], pair["verdict"]) == (filled.num_texts, "bit/byte", "different")
    assert found.to_json() == {
        "registry": filled.name,
        "version": filled.version,
        "view": filled.view.id,
        "pairs": found.pairs,
    }


def test_nats_and_another_view(filled: Registry) -> None:
    view = View(clip=-100.0)
    found = list_pairs(filled, ["org/m0", "org/m2"], view=view, nats=True)
    assert [pair["kl"] for pair in found.pairs] == [filled.kl(["org/m0", "org/m2"], view=view)["kl"].values[0, 1]]
    assert (found.pairs[0]["unit"], found.view) == ("nat/text", view)
    assert found.table()[0] == ["MODEL", "OTHER", "NATS/TEXT", "SE", "TAIL", "TEXTS", "BY", ""]


def test_pairs_of_one_row_nearest_first(filled: Registry, make_row: MakeRow) -> None:
    values = filled.row("org/m0").log_likelihood
    write_row(filled.path, make_row(filled, "copy/m0", 7, log_likelihood=values))
    nothing = np.full(filled.num_texts, np.nan)
    nothing[:1] = -1.0
    write_row(filled.path, make_row(filled, "short/m", 8, log_likelihood=nothing))
    found = list_pairs(filled, to="org/m0")
    assert found.labels[found.pairs[0]["other"]] == "copy/m0"
    assert [pair["verdict"] for pair in found.pairs] == ["identical", "different", "different", "unknown"]
    assert math.isnan(found.pairs[-1]["kl"])
    header, lines = found.table()
    assert header == ["MODEL", "OTHER", "BITS/BYTE", "SE", "TAIL", "TEXTS", "BY", ""]
    assert lines[0] == [
        "org/m0",
        "copy/m0",
        "0.000000",
        "± 0.000000",
        "0.00",
        str(filled.num_texts),
        "text",
        "identical",
    ]
    assert [line[-1] for line in lines[1:]] == ["no KL", "no KL", ""]
    assert [pair["other"] for pair in list_pairs(filled, ["org/m2", "org/m1"], to="org/m0").pairs] == [
        pair["other"] for pair in found.pairs[1:3]
    ]


def test_rows_of_one_model_go_by_their_ids(filled: Registry, make_row: MakeRow) -> None:
    row = make_row(filled, "org/m0", 9, weight_dtype="bfloat16")
    write_row(filled.path, row)
    labels = list_pairs(filled).labels
    assert labels[row.record.row_id] == row.record.row_id
    assert labels[filled.find("org/m1").row_id] == "org/m1"


def test_every_column_is_in_a_pair_and_in_the_table(filled: Registry) -> None:
    found = list_pairs(filled)
    assert {column.name for column in COLUMNS} <= found.pairs[0].keys()
    header, lines = found.table()
    assert {len(line) for line in lines} == {len(header)} == {len(COLUMNS) + 4}


def test_one_row_makes_no_pair(filled: Registry) -> None:
    with pytest.raises(InputError, match="a distance needs two rows; see: llreg ls"):
        list_pairs(filled, ["org/m1"])


def test_contrast_as_plain_values(filled: Registry) -> None:
    found = contrast(filled, ["org/m0", "org/m1"], texts=2)
    assert found.subsets is not None
    assert found.texts is not None
    assert {record["subset"] for record in found.subsets} == set(filled.text_index.subset)
    assert sum(record["share"] for record in found.subsets) == pytest.approx(1.0)
    for record in found.texts:
        assert record["start"]
        assert " ".join(str(filled.texts.texts[record["text"]]).split()).startswith(record["start"])
        assert len(record["start"]) <= 60
    assert list(found.to_json()) == ["models", "version", "view", "subsets", "texts"]
    assert list(contrast(filled, ["org/m0", "org/m1"], subsets=False, texts=1).to_json())[3:] == ["texts"]
    with pytest.raises(InputError, match="a comparison by text takes two models; got 3"):
        contrast(filled, ["org/m0", "org/m1", "org/m2"])
