"""In which parts of their texts two models differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llreg.geometry.kl.spans import Spans, find_spans
from llreg.geometry.view.view import View
from llreg.locate import init
from llreg.registry import Registry
from llreg.store.arrays import UNSCORED
from llreg.store.rowfile import Row, write_row
from llreg.texts.items import beginning
from llreg_schemas.errors import InputError

MakeRow = Callable[..., Row]


@pytest.fixture
def filled(registry: Registry, make_row: MakeRow) -> Registry:
    """Two rows of which the second is better throughout each text, more so in the later ones; text 5 is not scored in it."""
    cuts = registry.cuts
    assert cuts is not None
    rng = np.random.default_rng(0)
    common = -1.2 * cuts.sizes + rng.normal(size=cuts.num_segments)
    for k in range(2):
        drift = k * 0.1 * cuts.sizes * cuts.text / cuts.num_texts
        nats = np.minimum(common + drift + rng.standard_t(4, cuts.num_segments), -0.5)
        units = np.rint(256 * nats).astype(np.int32)
        values = cuts.sums(units) / 256
        if k:
            units[cuts.text == 5], values[5] = UNSCORED, np.nan
        row = make_row(registry, f"org/m{k}", k, fine=True, log_likelihood=values, segment_log_likelihood=units)
        write_row(registry.path, row)
    return registry


def test_the_kl_and_the_shares_are_what_their_definition_says(filled: Registry) -> None:
    found = find_spans(filled, ["org/m0", "org/m1"])
    cuts, terms = filled.cuts, {}
    assert cuts is not None
    rows = [filled.row(f"org/m{k}").arrays["segment_log_likelihood"] / 256 for k in range(2)]
    for text in [text for text in range(filled.num_texts) if text != 5]:
        part = slice(cuts.first[text], cuts.first[text + 1])
        sizes, difference = cuts.sizes[part], (rows[0] - rows[1])[part]
        deviation = difference - sizes * difference.sum() / sizes.sum()
        factor = 1 / (1 - (sizes**2).sum() / sizes.sum() ** 2) if len(sizes) > 1 else 1
        terms[text] = factor * deviation**2
    kls = np.array([term.sum() / 2 for term in terms.values()])
    mean_bytes = np.mean([filled.text_index.num_bytes[text] for text in terms])
    assert found.kl == pytest.approx(kls.mean() / mean_bytes / np.log(2), rel=1e-5)
    assert found.kl_se == pytest.approx(kls.std(ddof=1) / np.sqrt(len(kls)) / mean_bytes / np.log(2), rel=0.02)
    np.testing.assert_allclose(found.share, np.concatenate(list(terms.values())) / (2 * kls.sum()), rtol=1e-9)
    assert sum(subset["share"] for subset in found.subsets) == pytest.approx(1)
    of_code = find_spans(filled, ["org/m0", "org/m1"], view=View(only=("python",)))
    python = next(subset for subset in found.subsets if subset["subset"] == "python")
    assert of_code.kl == pytest.approx(python["kl_bits_per_byte"])
    assert of_code.bits_per_byte == pytest.approx(python["bits_per_byte"])
    assert of_code.share.sum() == pytest.approx(1)


def test_spans_are_the_texts_in_pieces_of_one_sign(filled: Registry) -> None:
    found = find_spans(filled, ["org/m0", "org/m1"], count=10_000)
    shares = [span["share"] for span in found.spans]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert len(found.spans) < len(found.text)
    ends: dict[int, list[tuple[int, int]]] = {}
    for span in found.spans:
        whole = str(filled.texts.texts[span["text"]]).encode()
        assert span["passage"] == whole[span["start"] : span["end"]].decode()
        assert span["difference"] == pytest.approx(np.subtract(*span["log_likelihood"]))
        inside = (found.rows.texts[found.text] == span["text"]) & (found.start >= span["start"])
        inside &= found.start < span["end"]
        assert span["deviation"] == pytest.approx(found.deviation[inside].sum())
        assert len(set(np.sign(found.deviation[inside]))) == 1
        sizes = np.abs(found.deviation[inside])
        assert (np.maximum(sizes[1:], sizes[:-1]) <= 2 * np.minimum(sizes[1:], sizes[:-1])).all()
        ends.setdefault(span["text"], []).append((span["start"], span["end"]))
    for text, pieces in ends.items():
        pieces.sort()
        assert [start for start, _ in pieces] == [0, *(end for _, end in pieces[:-1])]
        assert pieces[-1][1] == filled.text_index.num_bytes[text]
    assert 5 not in ends
    assert len(find_spans(filled, ["org/m0", "org/m1"], count=3).spans) == 3


def test_rows_that_are_equal_have_no_spans(filled: Registry) -> None:
    found = find_spans(filled, ["org/m0", "org/m0"])
    assert (found.spans, found.kl, found.share.sum()) == ([], 0, 0)


def test_pairs_through_their_responses_and_pmi(pair_registry: Registry, make_row: MakeRow) -> None:
    for k in range(2):
        write_row(pair_registry.path, make_row(pair_registry, f"org/m{k}", k, fine=True))
    found: dict[str, Spans] = {
        vector: find_spans(pair_registry, ["org/m0", "org/m1"], view=View(vector=vector))  # type: ignore[arg-type]
        for vector in ("conditional", "response", "pmi")
    }
    responses = [beginning(text) for text in pair_registry.texts.texts]
    assert found["pmi"].passages == responses
    np.testing.assert_allclose(
        found["pmi"].log_likelihood, found["conditional"].log_likelihood - found["response"].log_likelihood
    )
    first = found["conditional"].spans[0]
    assert first["passage"] == responses[first["text"]].encode()[first["start"] : first["end"]].decode()


def test_texts_that_are_not_here_are_byte_ranges(filled: Registry) -> None:
    hidden = replace(filled.texts, texts=[None, *filled.texts.texts[1:]])
    filled.__dict__["texts"] = hidden
    found = find_spans(filled, ["org/m0", "org/m1"], count=10_000)
    assert {span["passage"] is None for span in found.spans if span["text"] == 0} == {True}
    assert {span["passage"] is None for span in found.spans if span["text"]} == {False}


def test_rows_without_segments_are_told_what_to_do(filled: Registry, make_row: MakeRow) -> None:
    with pytest.raises(InputError, match="spans are of two models; got 1"):
        find_spans(filled, ["org/m0"])
    reason = {"no_segments": "the tokenizer gives no offsets"}
    for name, provenance in (("org/old", {}), ("org/odd", reason)):
        write_row(filled.path, make_row(filled, name, 7, provenance=provenance))
    with pytest.raises(InputError, match=r"org/old@\w+ has no segments: .* llreg add --overwrite always org/old"):
        find_spans(filled, ["org/m0", "org/old"])
    with pytest.raises(InputError, match="the tokenizer gives no offsets"):
        find_spans(filled, ["org/odd", "org/m0"])


def test_command(filled: Registry, cli: Any, tmp_path: Path) -> None:
    models = ("-r", filled.path, "dist", "org/m0", "org/m1")
    result = cli(*models, "--spans", "3")
    found = filled.spans(["org/m0", "org/m1"], count=3)
    lines = result.out.splitlines()
    assert lines[0].split()[:6] == ["TEXT", "SUBSET", "BYTES", "NATS", "BEYOND", "SHARE"]
    assert [line.split()[:6] for line in lines[1:]] == [
        [
            str(span["text"]),
            span["subset"],
            f"{span['start']}-{span['end']}",
            f"{span['difference']:+.2f}",
            f"{span['deviation']:+.2f}",
            f"{span['share']:.4f}",
        ]
        for span in found.spans
    ]
    assert json.loads(cli(*models, "--spans", "3", "--json").out) == found.to_json()
    assert len(cli(*models, "--spans").out.splitlines()) == 21
    page = tmp_path / "diff.html"
    result = cli(*models, "-o", page)
    assert (result.code, result.out, page.is_file()) == (0, "", True)
    for wrong in (("--spans", "--texts", "2"), ("--spans", "-o", "x.zarr"), ("-o", page, "--nats")):
        assert cli(*models, *wrong).code == 2
    assert cli("-r", filled.path, "dist", "org/m0", "--spans").code == 2


def test_texts_of_hardly_more_than_a_segment_count_as_for_a_distance(tmp_path: Path, make_row: MakeRow) -> None:
    """The drift of a text of one segment, or of one and a few bytes, is left in, for spans and distances alike."""
    texts = [
        "short",
        "x" * 48 + "yz",
        "several words that make two segments or three of them, as most texts do have",
    ] * 2
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": f"{k}{text}"}) + "\n" for k, text in enumerate(texts)))
    registry = init(tmp_path / "registry", texts=file)
    for k, name in enumerate(("org/a", "org/b")):
        write_row(registry.path, make_row(registry, name, k, fine=True))
    spans = find_spans(registry, ["org/a", "org/b"])
    assert spans.kl == pytest.approx(registry.kl(["org/a"], ["org/b"])["kl_bits_per_byte"].item(), rel=1e-6)
    assert all((spans.share[spans.text == text] > 0).all() for text in range(len(texts)))
