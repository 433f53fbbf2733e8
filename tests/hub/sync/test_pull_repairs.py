"""`pull` and `push` where something is lost here, or bad on the Hub: good rows come, bad ones are named."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from tests.conftest import Cli
from tests.hub.asking import commit
from tests.hub.client import Hub
from tests.hub.people import built_anew, downloads, tree

import llreg
from llreg.hub.sync.pull import clone, pull
from llreg.hub.sync.push import push
from llreg.registry import Registry
from llreg.store.layout import STORE
from llreg.store.rowfile import Row, row_path, to_zip
from llreg_schemas import pretty_json
from llreg_schemas.errors import HubNotFoundError, InputError, InvalidFileError, LlregWarning
from llreg_schemas.records import now, retraction

pytestmark = [
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata"),
]

AsUser = Callable[[str | None], None]
Fill = Callable[..., list[Row]]
VALUES = f"{STORE}/log_likelihood/c.0.0"


@pytest.fixture
def place(publish_rows: Callable[..., str]) -> str:
    """A repository of three rows, which alice may write."""
    return publish_rows("alice", 3)


@pytest.fixture
def copy(place: str, tmp_path: Path, clone_rows: Callable[[str, Path], Registry]) -> Registry:
    """A clone of it, all of whose rows are in the store."""
    return clone_rows(place, tmp_path / "copy")


def named(place: str, hub: Hub, path: str) -> bytes:
    """A file of the repository."""
    return tree(hub, place)[path]


def flipped(data: bytes) -> bytes:
    """With one bit of the first value changed."""
    return bytes([data[0] ^ 1]) + data[1:]


def forged(copied: Path, change: Callable[[dict[str, dict[str, str]]], object]) -> dict[str, bytes | None]:
    """The column of records with the first record changed, as files of a commit; made in a copy of the store."""
    group = zarr.open_group(str(copied), mode="r+", zarr_format=3, use_consolidated=False)
    column = group["record"]
    assert isinstance(column, zarr.Array)
    texts = np.asarray(column[:], dtype=object)
    document = json.loads(texts[0])
    change(document)
    texts[0] = json.dumps(document)
    column[:] = texts
    return {f"{STORE}/record/c/0": (copied / "record" / "c" / "0").read_bytes()}


@pytest.mark.parametrize("damage", ["gone", "half", "bit"])
def test_a_lost_store_is_made_anew(
    hub: Hub, place: str, copy: Registry, fill: Fill, tmp_path: Path, damage: str
) -> None:
    if damage == "gone":
        shutil.rmtree(copy.path / STORE)
    elif damage == "half":
        (copy.path / STORE / "digest" / "c" / "0").unlink()
    else:
        (copy.path / VALUES).write_bytes(flipped((copy.path / VALUES).read_bytes()))
    fresh = Registry(copy.path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LlregWarning)
        assert pull(fresh).rows == 3
    assert Registry(copy.path).validate() == []
    assert pull(Registry(copy.path)).files == 0

    shutil.rmtree(copy.path / STORE)
    fill(copy, 1, start=5)
    push(Registry(copy.path))
    there = tree(hub, place)
    assert there == built_anew(there, tmp_path / "anew")
    assert len(llreg.open(place).records()) == 4


def test_a_forged_record_is_not_believed(
    hub: Hub, place: str, small_registry: Registry, copy: Registry, tmp_path: Path
) -> None:
    shutil.copytree(copy.path / STORE, tmp_path / "forged")
    true = copy.records()[0]
    commit(hub, "alice", place, forged(tmp_path / "forged", lambda d: d["identity"].update(model="org/famous")))
    with pytest.warns(LlregWarning, match=r"org/famous.*expected the identity and segments of org/m0"):
        pull(copy)
    clone(place, tmp_path / "second")
    for registry in (copy, Registry(tmp_path / "second")):
        assert registry.records()[0] == true
        assert registry.validate() == []
    with pytest.raises(InvalidFileError, match=r"names org/famous@\w+ a row that is org/m0"):
        llreg.open(place).row("org/famous")


def test_a_damaged_part_of_the_build_is_replaced_by_row_files(
    hub: Hub, place: str, small_registry: Registry, tmp_path: Path
) -> None:
    commit(hub, "alice", place, {VALUES: flipped(named(place, hub, VALUES))})
    done = clone(place, tmp_path / "second")
    assert (done.rows, done.left_out) == (3, ())
    assert Registry(done.path).version == small_registry.version


@pytest.mark.parametrize(
    "path", ["retractions/" + "a" * 64 + ".json", "versions/v7.json", "subsets/" + "b" * 64 + ".json"]
)
def test_a_bad_document_is_left_out(
    hub: Hub, place: str, copy: Registry, fill: Fill, tmp_path: Path, path: str
) -> None:
    commit(hub, "alice", place, {path: b'{"x":'})
    with pytest.warns(LlregWarning, match=f"left out, {path}"):
        done = pull(copy)
    assert [line.partition(":")[0] for line in done.left_out] == [path]
    assert not (copy.path / path).exists()
    fill(copy, 1, start=5)
    with pytest.warns(LlregWarning, match=f"left out, {path}"):
        push(copy)
    assert len(Registry(copy.path).records()) == 4


def test_a_bad_document_here_is_replaced(hub: Hub, place: str, copy: Registry) -> None:
    (record, *_) = copy.records()
    name = f"retractions/{record.digest}.json"
    (copy.path / "retractions").mkdir()
    (copy.path / name).write_bytes(b"[]")
    document = retraction(record.digest, record.identity.model, "by mistake", "Ada", now())
    commit(hub, "alice", place, {name: pretty_json(document).encode()})
    assert pull(copy).rows == 2
    assert (copy.path / name).read_bytes() == pretty_json(document).encode()


def test_a_file_that_squats_a_digest_stops_no_row(
    hub: Hub, place: str, copy: Registry, fill: Fill, tmp_path: Path, cli: Cli
) -> None:
    (row,) = fill(copy, 1, start=7)
    digest = row.record.digest
    squat = f"rows/{digest[:2]}/AAA-{digest}.zarr.zip"
    commit(hub, "alice", place, {squat: b"junk"})
    with pytest.warns(LlregWarning, match="AAA"):
        done = clone(place, tmp_path / "second")
    assert (done.rows, len(done.left_out)) == (3, 1)
    with pytest.warns(LlregWarning, match="AAA"):  # as long as nothing good has come for it
        assert len(pull(Registry(done.path)).left_out) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LlregWarning)
        made = push(copy)
    assert row_path(row.record).as_posix() in made.files
    again = pull(Registry(done.path))
    assert (again.rows, again.left_out) == (4, ())
    assert named(place, hub, row_path(row.record).as_posix()) == to_zip(row)


def test_the_command_fails_where_rows_were_left_out(
    hub: Hub, place: str, copy: Registry, cli: Cli, make_row: Callable[..., Row]
) -> None:
    row = make_row(copy, "org/new", 9)
    commit(hub, "alice", place, {row_path(row.record).as_posix(): to_zip(row)[:-9]})
    for _ in range(2):
        code, out, notes = cli("-r", copy.path, "pull")
        assert (code, out.strip()) == (1, copy.version[:12])
        assert row_path(row.record).as_posix() in notes
        assert "1 file on the Hub left out" in notes


@pytest.mark.parametrize("path", ["registry.json", "recipe.json", f"{STORE}/zarr.json"])
def test_what_is_too_large_is_not_downloaded(hub: Hub, place: str, copy: Registry, path: str) -> None:
    large = (65 << 20) if path.startswith(STORE) else (1 << 20) + 1
    commit(hub, "alice", place, {path: b" " * large})
    hub.clear()
    if path == "recipe.json":
        with pytest.warns(LlregWarning, match="it was not downloaded"):
            assert len(pull(copy).left_out) == 1
    else:
        with pytest.raises(InvalidFileError, match="it was not downloaded"):
            pull(copy)
    assert not [name for name in downloads(hub.requests()) if name.endswith(path)]


def test_a_row_that_is_too_large_is_never_downloaded(
    hub: Hub, place: str, copy: Registry, make_row: Callable[..., Row]
) -> None:
    path = row_path(make_row(copy, "org/new", 9).record).as_posix()
    commit(hub, "alice", place, {path: bytes(2 << 20)})
    hub.clear()
    for _ in range(2):
        with pytest.warns(LlregWarning, match=f"left out, {path}: .* it was not downloaded"):
            assert len(pull(copy).left_out) == 1
    assert sum(request.sent for request in hub.requests()) < 1 << 20


def test_a_version_of_two_meanings_is_named(
    hub: Hub, place: str, small_registry: Registry, copy: Registry, fill: Fill
) -> None:
    ours = copy.tag("v1")["version"]
    fill(small_registry, 1, start=5)
    theirs = push(small_registry, tag="v1") and small_registry.version
    with pytest.warns(LlregWarning, match=rf"version v1 is {ours[:12]} here .* and {theirs[:12]} on the Hub"):
        pull(copy)
    assert copy.version_manifest("v1")["version"] == ours


def test_a_dataset_keeps_rows_that_a_pull_withdraws(place: str, small_registry: Registry, copy: Registry) -> None:
    opened = Registry(copy.path).dataset()
    wanted = small_registry.dataset()["log_likelihood"].to_numpy()
    small_registry.retract("org/m1", why="by mistake")
    push(small_registry)
    assert pull(copy).retracted
    assert np.array_equal(opened["log_likelihood"].to_numpy(), wanted)


def test_a_file_is_no_place_for_a_registry(place: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        clone(place, tmp_path / "taken")


def test_a_repository_without_texts_is_no_registry(hub: Hub, place: str, tmp_path: Path) -> None:
    commit(hub, "alice", place, {"texts.parquet": None})
    with pytest.raises(HubNotFoundError, match=r"no texts\.parquet"):
        clone(place, tmp_path / "second")


def test_a_misspelt_name_leaves_nothing_behind(
    hub: Hub, as_user: Callable[..., None], repo_name: str, small_registry: Registry, fill: Fill, tmp_path: Path
) -> None:
    as_user("alice")
    fill(small_registry, 1)
    push(small_registry, f"alice/{repo_name}")
    target = tmp_path / "zoo"
    with pytest.raises(HubNotFoundError, match="no dataset alice/missing"):
        clone("alice/missing", target)
    assert not target.exists()
    assert clone(f"alice/{repo_name}", target).rows == 1
