"""Views of rows of pairs: the response given its prompt, alone, and the difference, in every kind of geometry."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.conftest import Cli, MakeRow

from llreg.geometry.kl.stream import stream_rows
from llreg.geometry.neighbors import read_vector
from llreg.geometry.view.freeze import measured_view
from llreg.geometry.view.view import View, read_view
from llreg.registry import Registry
from llreg.store.rowfile import Row, write_row
from llreg_schemas.errors import InputError

PMI, RESPONSE = View(vector="pmi"), View(vector="response")


@pytest.fixture
def rows(pair_registry: Registry, make_row: MakeRow) -> list[Row]:
    """Four rows in the registry; the last lacks a value of either kind."""
    made = [make_row(pair_registry, f"org/m{k}", k) for k in range(4)]
    holes = {name: made[3].arrays[name].copy() for name in ("log_likelihood", "log_likelihood_response")}
    holes["log_likelihood"][0] = holes["log_likelihood_response"][5] = np.nan
    made[3] = make_row(pair_registry, "org/m3", 3, **holes)
    for row in made:
        write_row(pair_registry.path, row)
    return made


def vectors(rows: list[Row], clip: float = -np.inf) -> dict[str, Any]:
    """The vectors by definition, float64 of shape (4, 6)."""
    given, alone = (
        np.maximum(np.stack([row.arrays[name] for row in rows]).astype(np.float64), clip)
        for name in ("log_likelihood", "log_likelihood_response")
    )
    return {"conditional": given, "response": alone, "pmi": given - alone}


def plain_kl(values: Any) -> Any:
    """Var(x_i - x_j) / 2 over the texts that both have."""
    return np.array([[np.nanvar(a - b) / 2 for b in values] for a in values])


@pytest.mark.parametrize("vector", ["conditional", "response", "pmi"])
@pytest.mark.parametrize("clip", [None, -20.0])
def test_distances(pair_registry: Registry, rows: list[Row], vector: Any, clip: float | None) -> None:
    expected = plain_kl(vectors(rows, -np.inf if clip is None else clip)[vector])
    found = pair_registry.kl(view=View(clip, vector=vector))
    np.testing.assert_allclose(found["kl"].values, expected, rtol=1e-9, atol=1e-12)
    bytes_of_all = np.mean(pair_registry.texts.num_bytes)
    first = found["kl_bits_per_byte"].values[0, 1]
    assert first == pytest.approx(expected[0, 1] / (bytes_of_all * np.log(2)), rel=1e-9)
    assert found["num_texts"].values[0, 3] == {"conditional": 5, "response": 5, "pmi": 4}[vector]


def test_all_clip_before_the_difference(pair_registry: Registry, rows: list[Row]) -> None:
    """A response of no likelihood either way has PMI 0, and not that of two numbers of no meaning."""
    values = pair_registry.rows(view=View(clip=-0.1, vector="pmi")).values
    assert np.nanmax(np.abs(values)) == 0.0


def test_a_view_names_its_vector(tmp_path: Path) -> None:
    assert View().to_json() == {"clip": None, "id": View().id}  # as it was before there were pairs
    assert len({View().id, PMI.id, RESPONSE.id}) == 3
    path = tmp_path / "view.json"
    for view in (PMI, replace(RESPONSE, clip=-5.0)):
        path.write_text(json.dumps(view.to_json()))
        assert read_view(path) == view
    assert PMI.describe() == "PMI vectors, no clipping"


@pytest.mark.parametrize("view", [PMI, RESPONSE])
def test_registries_of_texts_have_none(small_registry: Registry, make_row: MakeRow, view: View) -> None:
    write_row(small_registry.path, make_row(small_registry))
    with pytest.raises(InputError, match=r"needs a registry of \(prompt, response\) pairs; six holds texts"):
        small_registry.rows(view=view)


def test_neighbours(pair_registry: Registry, rows: list[Row]) -> None:
    expected = plain_kl(vectors(rows)["pmi"])[0]
    found = pair_registry.neighbors("org/m0", 3, view=PMI)
    order = [int(neighbor.model[-1]) for neighbor in found.nearest]
    assert order == sorted(range(1, 4), key=lambda k: expected[k])
    bits = np.log(2) * np.array([np.mean(np.array(pair_registry.texts.num_bytes)[_shared(rows, k)]) for k in order])
    np.testing.assert_allclose([n.kl for n in found.nearest], expected[order] / bits, rtol=1e-9)


def _shared(rows: list[Row], k: int) -> Any:
    pmi = vectors(rows)["pmi"]
    return ~np.isnan(pmi[0] - pmi[k])


@pytest.mark.parametrize("vector", ["conditional", "response", "pmi"])
def test_neighbours_of_a_vector(pair_registry: Registry, rows: list[Row], vector: Any) -> None:
    """Of both log-likelihoods each view takes what it looks at."""
    given = np.stack([rows[1].arrays[name] for name in ("log_likelihood", "log_likelihood_response")])
    nearest = pair_registry.neighbors(given, 1, view=View(vector=vector)).nearest[0]
    assert (nearest.model, nearest.kl) == ("org/m1", 0.0)


def test_one_vector_has_no_pmi(pair_registry: Registry, rows: list[Row]) -> None:
    alone = rows[1].arrays["log_likelihood_response"]
    assert pair_registry.neighbors(alone, 1, view=RESPONSE).nearest[0].kl == 0.0
    with pytest.raises(InputError, match=r"a PMI vector is of two log-likelihoods: expected shape \(2, 6\)"):
        pair_registry.neighbors(alone, view=PMI)
    with pytest.raises(InputError, match="expected 6 numbers"):
        read_vector(np.stack([alone, alone]), 6)


def test_noise_is_that_of_both(pair_registry: Registry, rows: list[Row]) -> None:
    noise = {
        vector: pair_registry.rows(view=View(vector=vector)).noise for vector in ("conditional", "response", "pmi")
    }  # type: ignore[arg-type]
    assert all((part > 0).all() for part in noise.values() if part is not None)
    np.testing.assert_allclose(noise["pmi"], noise["conditional"] + noise["response"])  # type: ignore[operator]


def test_streams_trees_and_quantiles(pair_registry: Registry, rows: list[Row]) -> None:
    expected = vectors(rows)
    (_, block), *_ = stream_rows(pair_registry, view=PMI).blocks()
    np.testing.assert_allclose(block.values, expected["pmi"], rtol=1e-12)
    names = ["org/m0", "org/m1", "org/m2"]
    tree = pair_registry.tree(names, view=PMI, method="average")
    pairs = plain_kl(expected["pmi"][:3])
    first = min(((0, 1), (0, 2), (1, 2)), key=lambda pair: pairs[pair])
    assert (tree.children[0], tree.attrs["view"]) == (first, PMI.id)
    both = np.concatenate([expected["conditional"].ravel(), expected["response"].ravel()])
    view = measured_view(pair_registry, PMI, clip_quantile=0.25)
    assert (view.vector, view.clip) == ("pmi", pytest.approx(np.nanquantile(both, 0.25)))


def test_exports(pair_registry: Registry, rows: list[Row], tmp_path: Path) -> None:
    expected = vectors(rows)
    pair_registry.export(tmp_path / "pmi.npz", view=PMI)
    pair_registry.export(tmp_path / "raw.npz")
    pair_registry.export(tmp_path / "raw.parquet")
    pair_registry.export(tmp_path / "alone.parquet", view=RESPONSE)
    with np.load(tmp_path / "pmi.npz") as pmi, np.load(tmp_path / "raw.npz") as raw:
        np.testing.assert_allclose(pmi["pmi"], expected["pmi"], rtol=1e-5)
        assert "log_likelihood" not in pmi  # nobody takes it for one
        for name in rows[0].arrays:
            np.testing.assert_array_equal(raw[name], np.stack([row.arrays[name] for row in rows]))
    table = pq.read_table(tmp_path / "raw.parquet").to_pydict()
    np.testing.assert_array_equal(np.array(table["log_likelihood_response"]), expected["response"])
    alone = pq.read_table(tmp_path / "alone.parquet").to_pydict()
    np.testing.assert_array_equal(np.array(alone["log_likelihood_response"]), expected["response"])
    assert alone["num_tokens"] == [row.arrays["num_tokens_response"].tolist() for row in rows]


def test_command_line(cli: Cli, pair_registry: Registry, rows: list[Row], tmp_path: Path) -> None:
    expected = plain_kl(vectors(rows)["pmi"])[0, 1]
    shown = cli("-r", pair_registry.path, "dist", "org/m0", "org/m1", "--vector", "pmi", "--nats", "--json")
    document = json.loads(shown.out)
    assert document["view"] == replace(PMI, estimator="fine").id
    assert document["pairs"][0]["kl"] == pytest.approx(expected)
    frozen = cli("-r", pair_registry.path, "view", "--vector", "response", "--freeze")
    assert (frozen.code, "responses without their prompts" in frozen.out) == (0, True)
    assert Registry(pair_registry.path).view == replace(RESPONSE, estimator="fine")
