"""How exact the values of a file are, found in the values, recorded, and counted by noise floors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llreg.geometry.kl.pairs import list_pairs
from llreg.importers.formats import import_table
from llreg.importers.precision import value_precision
from llreg.locate import init
from llreg.registry import Registry
from llreg.store.rowfile import Row
from llreg_schemas.errors import InvalidFileError


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Rounded to nearest in bfloat16, as float32: its upper 16 bits."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)


ROUNDED: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "float32": (lambda values: values.astype(np.float32), "float32"),
    "float64": (lambda values: values, "float32"),
    "float16": (lambda values: values.astype(np.float16), "float16"),
    "float16 in float32": (lambda values: values.astype(np.float16).astype(np.float32), "float16"),
    "bfloat16 in float64": (lambda values: _to_bfloat16(values).astype(np.float64), "bfloat16"),
    "one decimal": (lambda values: values.round(1), "float32"),
    "two decimals in float32": (lambda values: values.round(2).astype(np.float32), "float32"),
    "whole numbers": (np.rint, "float32"),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_error_that_rounding_made(name: str) -> None:
    """It is the one measured against the values before they were rounded."""
    exact = -np.random.default_rng(0).gamma(4, 300, 2000)
    rounded, dtype = ROUNDED[name]
    values = rounded(exact).astype(np.float64)
    error = np.sqrt(((values - exact) ** 2).mean())
    its_dtype, rounding = value_precision(values)
    assert its_dtype == dtype
    if name == "float64":  # which rows, in float32, cannot hold
        assert rounding < 1e-4
    else:
        assert rounding == pytest.approx(error, rel=0.1)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    words = "".join(f'{{"text": "{"word " * 300}{k}"}}\n' for k in range(200))
    path.write_text(words)
    return path


@pytest.mark.parametrize(("dtype", "verdict"), [("float16", "same within noise"), ("float32", "identical")])
def test_noise_floor_knows_it(dtype: str, verdict: str, texts: Path, tmp_path: Path) -> None:
    """The same float32 model from a file in float32 and from one in float16: the rounding is noise, and counted as such."""
    registry = init(tmp_path / "registry", texts=texts)
    exact = -np.random.default_rng(1).gamma(16, 60, (2, 200)).astype(np.float32)
    exact[1] = exact[0] + np.random.default_rng(2).normal(0, 2, 200)  # another model, two nats a text away
    for name, values in {"exact": exact, "coarse": exact[:1].astype(dtype)}.items():
        path = tmp_path / f"{name}.npz"
        np.savez(path, models=[f"{name}/{k}" for k in range(len(values))], log_likelihood=values)
        result = import_table(registry, path, "npz", dtype="float32")
    assert any("were rounded before they came (float16)" in note for note in result.notes) == (dtype == "float16")
    provenance = registry.find("coarse/0").provenance
    assert provenance["value_dtype"] == dtype
    pairs = {pair["other"].partition("@")[0]: pair for pair in list_pairs(registry, to="coarse/0").pairs}
    assert pairs["exact/0"]["verdict"] == verdict
    assert pairs["exact/1"]["verdict"] == "different"
    assert registry.validate() == []


def test_no_row_claims_more_noise_than_it_can_have(small_registry: Registry, make_row: Callable[..., Row]) -> None:
    imported = {"source": "imported", "revision": None, "num_tokens": np.zeros(6, np.int32)}
    row = make_row(
        small_registry, **imported, provenance={"tokens": 0, "value_dtype": "bfloat16", "value_rounding": 40.0}
    )
    with pytest.raises(InvalidFileError, match=r"provenance\.value_rounding: expected at most"):
        small_registry.check_row(row, "row")
    row = make_row(small_registry, **imported, provenance={"tokens": 0, "value_rounding": 0.289})
    small_registry.check_row(row, "row")
