"""Fine rows on the Hub: a pull brings coordinates, segments stay there and are read when they are asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import MakeRow
from tests.hub.client import Hub
from tests.hub.conftest import AsUser
from tests.hub.publishing import publish
from tests.hub.reviewing import Site, files_of

import llreg
from llreg.hub.sync.pull import clone, pull
from llreg.hub.sync.push import push
from llreg.locate import init
from llreg.registry import Registry
from llreg.store.layout import KEPT, ROWS
from llreg.store.rowfile import Row, row_path, to_zip, write_row
from llreg.store.rowfile import make_row as make
from llreg_schemas import pretty_json
from llreg_schemas.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def rows(small_registry: Registry, make_row: MakeRow) -> list[Row]:
    """Seven fine rows and one without segments, written into `small_registry`: so many that a pull takes the build."""
    rows = [make_row(small_registry, f"org/m{k}", k, fine=k < 7) for k in range(8)]
    for row in rows:
        write_row(small_registry.path, row)
    return rows


@pytest.fixture
def place(hub: Hub, as_user: AsUser, repo_name: str, small_registry: Registry, rows: list[Row]) -> str:
    """The repository that alice has published them in."""
    as_user("alice")
    push(small_registry, f"alice/{repo_name}")
    hub.clear()
    return f"alice/{repo_name}"


def coordinates(registry: Registry) -> dict[str, list[float]]:
    """Of all rows, by digest."""
    records = registry.records()
    values = registry.values(records, variable="fine_coordinate")
    return {record.digest: np.nan_to_num(row, nan=1e9).tolist() for record, row in zip(records, values, strict=True)}


def test_a_pull_brings_coordinates_and_no_segments(
    place: str, hub: Hub, small_registry: Registry, rows: list[Row], tmp_path: Path
) -> None:
    copy = Registry(clone(place, tmp_path / "copy").path)
    assert not [request.path for request in hub.requests() if f"/{ROWS}/" in request.path]
    assert coordinates(copy) == coordinates(small_registry)
    assert [copy.segments(row.record) for row in rows] == [None] * 8
    assert (copy.validate(), copy.check_build()) == ([], [])
    assert pull(copy).added == ()


def test_rows_come_and_go(place: str, small_registry: Registry, tmp_path: Path, make_row: MakeRow) -> None:
    copy = Registry(clone(place, tmp_path / "copy").path)
    new = [make_row(copy, "org/new", 9, fine=True), make_row(copy, "org/newer", 10)]
    for row in new:
        write_row(copy.path, row)
    push(copy)
    pull(small_registry)
    assert coordinates(small_registry) == coordinates(copy)
    assert len(coordinates(copy)) == 10
    np.testing.assert_array_equal(copy.segments(new[0].record), new[0].segment_log_likelihood)


def test_a_lost_build_is_made_again_from_shards_or_files(place: str, tmp_path: Path) -> None:
    copy = Registry(clone(place, tmp_path / "copy").path)
    expected = coordinates(copy)
    shutil.rmtree(copy.path / "store.zarr")
    pull(Registry(copy.path))
    assert coordinates(Registry(copy.path)) == expected


def test_a_row_that_is_retracted_after_a_pull_is_not_lost(
    place: str, small_registry: Registry, rows: list[Row], tmp_path: Path
) -> None:
    small_registry.tag("v1")
    push(small_registry)
    copy = Registry(clone(place, tmp_path / "copy").path)
    before = coordinates(copy)
    small_registry.retract(rows[0].record.row_id, why="a mistake")
    push(small_registry)
    pull(copy)
    assert len(coordinates(copy)) == 7
    assert coordinates(Registry(copy.path, revision="v1")) == before
    assert [path.name for path in (copy.path / KEPT).iterdir()] == [row_path(rows[0].record).name]
    assert (copy.validate(), copy.check_build(), pull(copy).added) == ([], [], ())


def test_what_was_pulled_is_not_published_elsewhere_without_segments(
    place: str, tmp_path: Path, repo_name: str
) -> None:
    copy = Registry(clone(place, tmp_path / "copy").path)
    (copy.path / ".llreg" / "remote.json").unlink()
    with pytest.raises(InputError, match=r"the segments of org/m0@.* are not here: a build has none"):
        push(copy, f"alice/{repo_name}-other")


def test_a_published_record_keeps_the_segments_that_are_here(
    place: str, hub: Hub, small_registry: Registry, rows: list[Row], tmp_path: Path
) -> None:
    """The same values were measured here, too: the record becomes the published one, the segments stay."""
    mine = init(tmp_path / "mine", texts=small_registry.path / "texts.parquet", name="small")
    (mine.path / "registry.json").write_bytes((small_registry.path / "registry.json").read_bytes())
    mine = Registry(mine.path)
    record = replace(rows[0].record, provenance={**rows[0].record.provenance, "contributor": "Grace"})
    write_row(mine.path, replace(rows[0], record=record))
    pull(mine, place)
    found = Registry(mine.path).row("org/m0")
    assert found.record == rows[0].record
    assert to_zip(found) == to_zip(rows[0])


def test_segments_are_read_on_the_hub_with_two_requests(
    hub: Hub, as_user: AsUser, repo_name: str, tmp_path: Path, make_row: MakeRow
) -> None:
    texts = tmp_path / "texts.jsonl"
    rng = np.random.default_rng(0)
    lines = [" ".join(map(str, rng.integers(0, 10**9, 300))) for _ in range(40)]
    texts.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    registry = init(tmp_path / "long", texts=texts)
    row = make_row(registry, "org/long", 1, fine=True)
    size = write_row(registry.path, row).stat().st_size
    registry.build()
    as_user("alice")
    publish(hub.api("alice"), f"alice/{repo_name}", registry.path)
    opened = llreg.open(f"alice/{repo_name}")
    (record,) = opened.records()
    np.testing.assert_array_equal(
        opened.values([record], variable="fine_coordinate"), registry.values([record], variable="fine_coordinate")
    )
    hub.clear()
    np.testing.assert_array_equal(opened.segments(record), row.segment_log_likelihood)
    parts = [request.sent for request in hub.requests() if request.role == "cdn"]
    assert len(parts) == 2
    assert sum(parts) < size
    np.testing.assert_array_equal(llreg.open(f"alice/{repo_name}").segments(record), row.segment_log_likelihood)
    assert len([request for request in hub.requests() if request.role == "cdn"]) == 2  # and none the second time


def test_a_registry_with_other_segments_does_not_compare(place: str, small_registry: Registry, tmp_path: Path) -> None:
    """One of format 1 on the same texts: its build would have no place for the coordinates."""
    plain = Path(shutil.copytree(small_registry.path, tmp_path / "plain"))
    shutil.rmtree(plain / ".llreg")
    for part in (ROWS, "store.zarr"):
        shutil.rmtree(plain / part)
    document = {name: part for name, part in small_registry.info.items() if name != "segments"}
    (plain / "registry.json").write_text(pretty_json({**document, "format_version": 1}))
    for change in (pull, lambda registry, repo: push(registry, repo, create_pr=True)):
        with pytest.raises(InputError, match=r"the segments none.*[0-9a-f]{12}.*do not compare"):
            change(Registry(plain), place)


def test_pull_requests(
    hub: Hub, as_user: AsUser, small_registry: Registry, publish_rows: Callable[..., str], make_row: MakeRow
) -> None:
    site = Site(hub, publish_rows("lab", 2), small_registry, as_user)
    good, bad, kept = (make_row(small_registry, f"bob/m{k}", k, fine=True) for k in (7, 8, 9))
    segments = good.arrays["segment_log_likelihood"] - 1
    wrong = {**bad.arrays, "segment_log_likelihood": bad.arrays["segment_log_likelihood"] - 1}
    bad = make(bad.record.identity, bad.record.provenance, bad.record.declared, wrong)
    fine = small_registry.fine_map
    assert fine is not None
    kept = replace(kept, segment_log_likelihood=None, fine_coordinate=fine.coordinates(segments))
    found = site.review(site.propose(files_of(good)), site.propose(files_of(bad)), site.propose(files_of(kept)))
    problems = [[finding.message for finding in verdict.findings if finding.level == "refused"] for verdict in found]
    assert problems[0] == []
    assert "expected segments that sum to the text's" in problems[1][0]
    assert "expected the members" in problems[2][0]
