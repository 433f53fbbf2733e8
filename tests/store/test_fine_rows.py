"""Rows with segments: their files, what they must be to stand in a registry, and the texts' cuts beside them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from llreg import Registry, Row
from llreg.store.arrays import row_variables
from llreg.store.rowfile import read_row, to_zip, write_row
from llreg.texts.segments import Cuts

MakeRow = Callable[..., Row]
N = 6


@pytest.fixture(params=["texts", "pairs"])
def either_registry(request: pytest.FixtureRequest) -> Registry:
    """An empty registry on six texts, or on six pairs."""
    name = {"texts": "small_registry", "pairs": "pair_registry"}[request.param]
    registry: Registry = request.getfixturevalue(name)
    return registry


def test_a_new_registry_names_the_cuts_of_its_texts(either_registry: Registry) -> None:
    cuts, texts = either_registry.cuts, either_registry.texts
    assert cuts is not None
    assert either_registry.info.segments == cuts.document(texts.info.id)
    np.testing.assert_array_equal(cuts.sizes, Cuts.of(texts.complete()).sizes)
    np.testing.assert_array_equal(cuts.sums(cuts.sizes), texts.num_bytes)


def test_a_fine_row_comes_back_from_its_file(either_registry: Registry, make_row: MakeRow) -> None:
    values = [float("nan"), *[-40.0] * (N - 1)]
    row = make_row(either_registry, log_likelihood=values, fine=True)
    path = write_row(either_registry.path, row)
    back = read_row(path, N, either_registry.info.num_segments)
    assert list(back.arrays) == list(row_variables(pairs=either_registry.rendering is not None, fine=True))
    for name, array in row.arrays.items():
        assert back.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(back.arrays[name], array)
    assert back.record == row.record
    assert to_zip(back) == path.read_bytes()
    assert either_registry.validate() == []
