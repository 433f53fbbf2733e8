"""A pull of a large registry: its rows come as shards, and how much it asks for.

Requests do not depend on the number of texts, so there are few here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.hub.client import Hub, Request
from tests.hub.people import held
from tests.hub.publishing import put

import llreg
from llreg import Registry, Row
from llreg.hub.sync.pull import clone, pull
from llreg.hub.sync.push import push
from llreg.store.rowfile import row_path, to_zip, write_row
from llreg.store.zarr_write import write_store

MODELS, TEXTS = 1018, 40
FIRST_PULL = 60  # requests
FIVE_ROWS = 1_000_000  # bytes, of 10,000 texts
FINE_ROW = 1_000_000  # bytes, of as many texts of 1 kB
MANY_TEXTS = 10_000

MakeRow = Callable[..., Row]


@pytest.fixture
def large(tmp_path: Path, make_row: MakeRow) -> Registry:
    """A registry whose rows are in its build alone: as after a pull, and quicker to make."""
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"text {k}"}) + "\n" for k in range(TEXTS)), encoding="utf-8")
    registry = llreg.init(tmp_path / "maintainer", texts=texts)
    rows = [make_row(registry, f"org/m{k}", k) for k in range(MODELS)]
    records = [row.record for row in rows]
    store, attributes = registry.path / "store.zarr", {"registry": registry.name}
    write_store(store, iter(rows), records, registry.text_index, attributes, registry.fine_map)
    registry = llreg.open(registry.path)
    registry.build()
    return registry


def received(requests: list[Request]) -> int:
    return sum(request.sent for request in requests)


def values(registry: Registry) -> Any:
    """Of all rows, in their order by digest."""
    records = sorted(registry.records(), key=lambda record: record.digest)
    return registry.values(records)


def test_pulls_of_a_large_registry_stay_within_their_limits(
    hub: Hub, as_user: Any, large: Registry, tmp_path: Path, repo: str, make_row: MakeRow
) -> None:
    # No pull may read the row file of a row that is in the build: there is none in them.
    names = [row_path(record).as_posix() for record in large.records()]
    put(hub, repo, held(large) | {name: b"\0" + name.encode() for name in names})
    as_user(None)
    hub.clear()
    assert clone(repo, tmp_path / "reader").rows == MODELS
    first = hub.requests()
    assert len(first) <= FIRST_PULL
    assert not [request.path for request in first if "/resolve/" in request.path and "/rows/" in request.path]

    hub.clear()
    reader = llreg.open(tmp_path / "reader")
    assert not reader.row_files()
    assert np.array_equal(values(reader), values(large))
    assert pull(reader).added == ()
    asked = hub.requests()
    assert len(asked) == 1
    assert received(asked) < 1000  # and does not grow with the registry

    as_user("alice")
    new = [make_row(large, f"org/new{k}", MODELS + k) for k in range(5)]
    for row in new:
        write_row(large.path, row)
    push(large, repo)

    as_user(None)
    hub.clear()
    result = pull(reader)
    assert result.added == tuple(row.record.row_id for row in new)
    asked = hub.requests()
    assert len(asked) <= len(first)
    assert np.array_equal(values(reader), values(large))
    assert reader.check_build() == []
    # All but the row files is as long for many texts as for these few.
    beside = received(asked) - sum(len(to_zip(row)) for row in new)
    assert beside > 0
    assert beside + len(new) * row_bytes(new[0]) < FIVE_ROWS


def test_a_fine_row_stays_within_its_limit(small_registry: Registry, make_row: MakeRow) -> None:
    """Its file, which a pull brings of a row that is in no build yet: with segments as those of real models scatter."""
    rng = np.random.default_rng(0)
    row = make_row(small_registry, fine=True)
    segments = -np.rint(256 * rng.gamma(2.5, 9, 380_000)).astype(np.int32)  # of 26 bytes, 23 nats each
    counts = rng.integers(1, 400, MANY_TEXTS, dtype=np.int32)
    values = rng.uniform(-1e3, -1, MANY_TEXTS).astype(np.float32)
    fine = {"num_correct": counts // 3, "segment_log_likelihood": segments}
    assert len(to_zip(Row(row.record, values, counts, **fine))) < FINE_ROW


def row_bytes(row: Row) -> int:
    """Bytes of a row file of many texts, whose token counts and values do not compress."""
    rng = np.random.default_rng(0)
    values = rng.uniform(-1e3, -1, MANY_TEXTS).astype(np.float32)
    tokens = rng.integers(1, 2**20, MANY_TEXTS, dtype=np.int32)
    return len(to_zip(Row(row.record, values, tokens)))
