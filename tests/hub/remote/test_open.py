"""Registries read straight from the Hub: how much is asked for, of which commit, and what is refused."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numcodecs import Zstd
from tests.hub.client import Hub, Request
from tests.hub.conftest import AsUser
from tests.hub.people import head
from tests.hub.publishing import publish, published

import llreg
from llreg.geometry.view.freeze import freeze_view
from llreg.locate import init
from llreg.registry import HubRegistry, Registry
from llreg.store.rowfile import Row, row_path, write_row
from llreg_schemas.errors import HubNotFoundError, InputError, InvalidFileError, LlregError

Cli = Callable[..., Any]
Fill = Callable[..., list[Row]]
MakeRow = Callable[..., Row]
SHARD, CHUNK, TEXTS = 256, 16, 600  # rows in a file and in what is read of it at once; texts of `many`


def asked(hub: Hub) -> list[Request]:
    """Requests to the Hub itself since the last look; those to where it keeps large files come of redirects."""
    found = [request for request in hub.requests() if request.role == "hub"]
    hub.clear()
    return found


def sent(hub: Hub) -> int:
    return sum(request.sent for request in hub.requests())


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, make_row: MakeRow) -> Registry:
    """300 rows on 600 texts, all in the build; the first four also as files."""
    texts = tmp_path_factory.mktemp("texts") / "six-hundred.jsonl"
    rng = np.random.default_rng(0)
    lines = [{"text": f"Text {k}: {' '.join(map(str, rng.integers(0, 10**9, 150)))}"} for k in range(TEXTS)]
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    registry = init(tmp_path_factory.mktemp("many") / "many", texts=texts)
    rows = [make_row(registry, f"org/m{k}", k) for k in range(300)]
    for row in rows:
        write_row(registry.path, row)
    registry.build()
    for row in rows[4:]:
        (registry.path / row_path(row.record)).unlink()
    return registry


@pytest.fixture
def repo(hub: Hub, repo_name: str, as_user: AsUser) -> str:
    """Name of a repository of alice's that is not there yet; the client is alice."""
    as_user("alice")
    return f"alice/{repo_name}"


@pytest.fixture(scope="module")
def _repos() -> dict[str, str]:
    """What is published once: by a name, its repository."""
    return {}


@pytest.fixture
def many_on_hub(hub: Hub, repo: str, many: Registry, _repos: dict[str, str]) -> str:
    """The repository of `many`, which no test changes; what a test has read of it is in the test's own cache."""
    if "many" not in _repos:
        publish(hub.api("alice"), repo, many.path)
        _repos["many"] = repo
    hub.clear()
    return _repos["many"]


@pytest.fixture
def on_hub(many_on_hub: str) -> HubRegistry:
    """`many` on the Hub, opened."""
    opened = llreg.open(many_on_hub)
    assert isinstance(opened, HubRegistry)
    return opened


@pytest.fixture
def three(hub: Hub, publish_rows: Callable[..., str]) -> str:
    """A repository of the test's own, of three rows that `small_registry` then has, too."""
    place = publish_rows("alice", 3)
    hub.clear()
    return place


def small(registry: Registry, fill: Fill, rows: int = 3) -> Registry:
    fill(registry, rows)
    registry.build()
    return registry


def contents(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in published(directory)}


def publish_changes(hub: Hub, repo: str, directory: Path, before: dict[str, bytes]) -> None:
    """Commit what a directory has that is not as `before`, and delete what it lacks."""
    now = contents(directory)
    changed = [name for name, data in now.items() if data != before.get(name)]
    publish(hub.api("alice"), repo, directory, names=changed, delete=before.keys() - now.keys())


def published_as(hub: Hub, repo: str, source: str, registry: Registry, directory: Path) -> str:
    """A repository of what `directory` holds; most of it is as in `registry`, which is in the repository `source`."""
    hub.copy(source, repo)
    publish_changes(hub, repo, directory, contents(registry.path))
    return repo


def ids(registry: Registry) -> list[str]:
    return [record.row_id for record in registry.records()]


class TestHowMuchIsRead:
    def test_opening(self, hub: Hub, on_hub: HubRegistry, many: Registry) -> None:
        assert ids(on_hub) == ids(many)
        assert on_hub.version == many.version
        # The commit 1; the list of files 1; registry.json and zarr.json 3 each, with the Hub's redirect;
        # the columns digest and record 1 each, beside what the redirect leads to.
        assert len(asked(hub)) <= 1 + 1 + 3 + 3 + 1 + 1

    def test_one_row_is_one_request(self, hub: Hub, on_hub: HubRegistry, many: Registry) -> None:
        on_hub.records()
        for k in (0, 1):
            hub.clear()
            row, local = on_hub.row(f"org/m{k}"), many.row(f"org/m{k}")
            assert row.record == local.record
            np.testing.assert_array_equal(row.log_likelihood, local.log_likelihood)
            np.testing.assert_array_equal(row.num_tokens, local.num_tokens)
            size = (many.path / row_path(row.record)).stat().st_size
            assert sent(hub) == size
            assert [request.status for request in asked(hub)] == [302]
        on_hub.row("org/m1")
        assert asked(hub) == []

    def test_row_that_only_the_build_has(self, hub: Hub, on_hub: HubRegistry, many: Registry) -> None:
        on_hub.records()
        hub.clear()
        row = on_hub.row("org/m7")
        np.testing.assert_array_equal(row.log_likelihood, many.row("org/m7").log_likelihood)
        np.testing.assert_array_equal(row.num_tokens, many.row("org/m7").num_tokens)
        chunk = CHUNK * TEXTS * 4 + 4
        tokens = (many.path / "store.zarr" / "num_tokens" / "c.0.0").stat().st_size  # small: as a whole
        assert sent(hub) == 16 * SHARD // CHUNK + 4 + chunk + tokens
        assert len(asked(hub)) == 3
        hub.clear()
        values = on_hub.values([on_hub.find("org/m100")])  # another chunk of the same shard
        np.testing.assert_array_equal(values, many.values([many.find("org/m100")]))
        assert sent(hub) == chunk
        assert len(asked(hub)) == 1
        on_hub.values([on_hub.find("org/m101")])  # in the chunk that was read
        assert asked(hub) == []

    def test_many_rows_are_whole_files(self, hub: Hub, on_hub: HubRegistry, many: Registry) -> None:
        records = on_hub.records()
        hub.clear()
        np.testing.assert_array_equal(on_hub.values(records), many.values(many.records()))
        shards = (many.path / "store.zarr" / "log_likelihood").glob("c.*")
        assert sent(hub) == sum(shard.stat().st_size for shard in shards)
        assert len(asked(hub)) == 2
        on_hub.values(records[::-1])
        assert asked(hub) == []

    def test_index_of_the_texts_without_the_texts(self, hub: Hub, on_hub: HubRegistry, many: Registry) -> None:
        hub.clear()
        index = on_hub.text_index
        assert (index.sha256, index.subset) == (many.text_index.sha256, many.text_index.subset)
        size = (many.path / "texts.parquet").stat().st_size
        assert sent(hub) < size * 2 / 3
        assert len(asked(hub)) <= 3
        assert on_hub.texts.texts == many.texts.texts
        assert len(asked(hub)) == 1

    def test_lazy_dataset(self, hub: Hub, on_hub: HubRegistry, many: Registry) -> None:
        ds = on_hub.dataset()
        on_hub.store.digests()
        hub.clear()
        part = ds.log_likelihood[20:40, 5].values
        # The index, and two chunks that lie side by side: newer versions of zarr fetch these at once.
        assert [request.status for request in asked(hub)] in ([302] * 2, [302] * 3)
        np.testing.assert_array_equal(part, many.dataset().log_likelihood[20:40, 5].values)
        assert ds.equals(many.dataset())

    def test_second_process(self, hub: Hub, on_hub: HubRegistry, cli: Cli) -> None:
        """What was read is kept on disk: of the same commit, only where it is has to be asked for."""
        hub.clear()
        first = cli("-r", on_hub.repo, "dist", "org/m0", "org/m9", "--json")
        assert first.code == 0, first.err
        hub.clear()
        assert cli("-r", on_hub.repo, "dist", "org/m0", "org/m9", "--json").out == first.out
        assert len(asked(hub)) == 1


class TestWhichCommit:
    def test_stays_while_main_moves(self, hub: Hub, three: str, small_registry: Registry, fill: Fill) -> None:
        commit = head(hub, three)
        opened = llreg.open(three)
        assert (opened.repo, opened.commit) == (three, commit)
        assert repr(opened) == f"<llreg.Registry small at {three}@{commit[:8]} on the Hub>"
        fill(small_registry, 2, start=3)
        small_registry.retract("org/m0", why="wrong")
        small_registry.build()
        publish(hub.api("alice"), three, small_registry.path)
        assert [r.identity.model for r in opened.records()] == ["org/m0", "org/m1", "org/m2"]
        np.testing.assert_array_equal(opened.values(opened.records()), opened.dataset().log_likelihood.values)
        now = llreg.open(three)
        assert ids(now) == ids(small_registry)
        assert llreg.open(three, revision=commit).version == opened.version

    def test_merged_row_is_there_before_the_build(
        self, hub: Hub, three: str, small_registry: Registry, fill: Fill
    ) -> None:
        (row,) = fill(small_registry, 1, start=3)
        publish(hub.api("alice"), three, small_registry.path, names=[str(row_path(row.record))])
        opened = llreg.open(three)
        assert ids(opened) == ids(small_registry)
        np.testing.assert_array_equal(opened.row("org/m3").log_likelihood, row.log_likelihood)
        assert opened.kl().equals(small_registry.kl())
        assert opened.status()["not_built"] == [row.record.row_id]

    def test_pull_request_is_a_revision(
        self, hub: Hub, three: str, small_registry: Registry, fill: Fill, cli: Cli
    ) -> None:
        (row,) = fill(small_registry, 1, start=3)
        name = str(row_path(row.record))
        url = publish(hub.api("bob"), three, small_registry.path, names=[name], pull_request=True)
        revision = f"refs/pr/{url.rpartition('/')[2]}"
        assert row.record.row_id in ids(llreg.open(three, revision=revision))
        assert row.record.row_id not in ids(llreg.open(three))
        assert row.record.row_id in cli("-r", f"{three}@{revision}", "ls", "-q").out.split()

    def test_named_version(self, hub: Hub, repo: str, small_registry: Registry, fill: Fill, cli: Cli) -> None:
        """By the tag of the repository that is named like it, or by the manifest alone."""
        fill(small_registry, 2)
        small_registry.tag("v1")
        fill(small_registry, 1, start=2)
        small_registry.tag("v2")
        small_registry.build()
        publish(hub.api("alice"), repo, small_registry.path)
        hub.api("alice").create_tag(repo, tag="v2", repo_type="dataset")
        fill(small_registry, 1, start=3)
        publish(hub.api("alice"), repo, small_registry.path)
        for tag, count in (("v1", 2), ("v2", 3)):
            local, opened = llreg.open(small_registry.path, revision=tag), llreg.open(repo, revision=tag)
            assert opened.revision == tag
            assert ids(opened) == ids(local)
            assert len(ids(opened)) == count
            assert opened.version == local.version
            assert cli("-r", f"{repo}@{tag}", "ls", "-q").out.split() == ids(local)
        assert len(ids(llreg.open(repo))) == 4

    def test_tag_of_the_repository_alone(self, hub: Hub, three: str, small_registry: Registry, fill: Fill) -> None:
        hub.api("alice").create_tag(three, tag="before", repo_type="dataset")
        (row,) = fill(small_registry, 1, start=3)
        publish(hub.api("alice"), three, small_registry.path, names=[str(row_path(row.record))])
        assert len(llreg.open(three).records()) == 4
        then = llreg.open(three, revision="before")
        assert (len(then.records()), then.revision) == (3, None)

    @pytest.mark.parametrize("revision", ["v9", "0" * 40, "refs/pr/7", "../registry"])
    def test_no_such_revision(self, three: str, revision: str) -> None:
        with pytest.raises(HubNotFoundError, match=f"{three} on the Hub has no branch, tag or commit {revision}"):
            llreg.open(three, revision=revision)


class TestAccess:
    def test_private(
        self, hub: Hub, repo: str, small_registry: Registry, fill: Fill, as_user: AsUser, cli: Cli
    ) -> None:
        publish(hub.api("alice"), repo, small(small_registry, fill).path, private=True)
        assert len(llreg.open(repo).records()) == 3
        for user in (None, "bob"):
            as_user(user)
            with pytest.raises(
                HubNotFoundError, match=f"no dataset {repo} on the Hub .* private one log in with: hf auth"
            ):
                llreg.open(repo)
        result = cli("-r", repo, "ls")
        assert (result.code, result.out) == (1, "")
        assert f"no directory {repo}, and no dataset {repo} on the Hub" in result.err
        assert "Traceback" not in result.err

    def test_not_a_registry(self, hub: Hub, repo: str, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_text("# A dataset of another kind\n")
        publish(hub.api("alice"), repo, tmp_path, names=["README.md"])
        with pytest.raises(HubNotFoundError, match=r"is not a registry at [0-9a-f]{8}: it has no registry.json"):
            llreg.open(repo)

    def test_directory_wins(
        self, hub: Hub, repo: str, small_registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cli: Cli
    ) -> None:
        init(tmp_path / repo, name="here")
        monkeypatch.chdir(tmp_path)
        assert llreg.open(repo).name == "here"
        assert json.loads(cli("-r", repo, "status", "--json", cwd=tmp_path).out)["registry"] == "here"
        assert hub.requests() == []

    @pytest.mark.parametrize("given", ["./a/b", "/a/b", "../a/b", "a/b/c", "b"])
    def test_what_is_never_on_the_hub(
        self, hub: Hub, as_user: AsUser, given: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(LlregError, match="is not a registry"):
            llreg.open(given)
        assert hub.requests() == []

    def test_offline(self, hub: Hub, many_on_hub: str, cli: Cli) -> None:
        repo = many_on_hub
        offline = {"HF_HUB_OFFLINE": "1"}
        never = cli("-r", repo, "ls", "-q", env=offline)
        assert (never.code, never.out) == (1, "")
        assert (
            f"HF_HUB_OFFLINE is set, and {repo} at main was not read before; while online: llreg pull {repo}"
            in never.err
        )
        args = ("-r", repo, "dist", "org/m0", "org/m7", "--json")
        online = cli(*args)
        hub.clear()
        assert cli(*args, env=offline).out == online.out
        assert cli("-r", repo, "info", "org/m250", env=offline).code == 0
        beyond = cli("-r", repo, "dist", "org/m0", "org/m250", env=offline)
        assert (beyond.code, beyond.out) == (1, "")
        assert f"log_likelihood/c.0.0 of {repo} was not read before" in beyond.err
        assert f"llreg pull {repo}" in beyond.err
        assert hub.requests() == []

    @pytest.mark.parametrize("kind", ["500", "drop", "truncate", "429"])
    def test_failure_in_between(self, hub: Hub, on_hub: HubRegistry, many: Registry, kind: str) -> None:
        on_hub.records()
        hub.fault(kind, path="rows|/repos/")
        np.testing.assert_array_equal(on_hub.row("org/m2").log_likelihood, many.row("org/m2").log_likelihood)
        assert hub.struck() == 1


class TestReadOnly:
    @pytest.mark.parametrize(
        "change",
        [
            lambda r: r.build(),
            lambda r: r.check_build(),
            lambda r: r.tag("v1"),
            lambda r: r.retract("org/m1", why="no"),
            lambda r: r.add(["some/model"]),
            lambda r: freeze_view(r, r.view),
        ],
    )
    def test_changes_are_refused(self, three: str, change: Callable[[Registry], object]) -> None:
        opened = llreg.open(three)
        with pytest.raises(
            InputError, match=f"{three} is on the Hub and only read here; to .*, first: llreg pull {three}"
        ):
            change(opened)
        assert not (opened.path / ".llreg").exists()

    def test_reading_is_not(self, hub: Hub, repo: str, small_registry: Registry, fill: Fill) -> None:
        small(small_registry, fill, rows=6)
        small_registry.retract("org/m5", why="measured twice")
        small_registry.tag("v1")
        publish(hub.api("alice"), repo, small_registry.path)
        opened = llreg.open(repo)
        assert opened.validate() == []
        for read in (
            lambda r: r.log(),
            lambda r: r.summary(),
            lambda r: r.kl().to_dict(),
            lambda r: r.subset(3)["texts"],
            lambda r: r.versions(),
            lambda r: r.view.to_json(),
        ):
            assert read(opened) == read(small_registry)
        status = opened.status()
        assert status["path"] == f"{repo}@{opened.commit[:8]} on the Hub"
        assert (status["rows"], status["retracted"], status["tags"]) == (5, 1, ["v1"])

    def test_commands(self, three: str, small_registry: Registry, cli: Cli) -> None:
        for args in (["ls"], ["dist"], ["validate"], ["texts", "show", "2"]):
            here, there = cli("-r", small_registry.path, *args), cli("-r", three, *args)
            assert (there.code, there.out) == (0, here.out), there.err
        refused = cli("-r", three, "retract", "org/m1", "--why", "no")
        assert (refused.code, refused.out) == (1, "")
        assert f"llreg pull {three}" in refused.err


def _bomb_in_the_digests(store: Path) -> None:
    (store / "digest" / "c" / "0").write_bytes(Zstd().encode(bytes(10 << 20)))


def _huge_shape(store: Path) -> None:
    path = store / "zarr.json"
    path.write_text(path.read_text().replace("3,\n          6\n", "1000000000000,\n          6\n"))


def _missing_shard(store: Path) -> None:
    (store / "log_likelihood" / "c.0.0").unlink()


def _huge_shard(store: Path) -> None:
    (store / "num_tokens" / "c.0.0").write_bytes(bytes(5 << 20))


def _garbage(store: Path) -> None:
    (store / "record" / "c" / "0").write_bytes(b"garbage")


def _with_crc32c(data: bytes) -> bytes:
    """Bytes and their CRC-32C (RFC 3720), bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return data + struct.pack("<I", crc ^ 0xFFFFFFFF)


class TestDamage:
    @pytest.mark.parametrize(
        ("damage", "told"),
        [
            (_bomb_in_the_digests, "digest: a chunk of 10,485,760 bytes"),
            (_huge_shape, "expected shape"),
            (_missing_shard, "log_likelihood/c.0.0 is missing"),
            (_huge_shard, "num_tokens/c.0.0 has 5,242,880 bytes; at most"),
            (_garbage, "expected a zstd frame"),
        ],
    )
    def test_store_is_refused(
        self, hub: Hub, three: str, small_registry: Registry, damage: Callable[[Path], None], told: str
    ) -> None:
        before = contents(small_registry.path)
        damage(small_registry.path / "store.zarr")
        publish_changes(hub, three, small_registry.path, before)
        hub.clear()
        with pytest.raises(InvalidFileError, match=f"store.zarr: .*{told}"):
            llreg.open(three).records()
        assert sent(hub) < 100_000  # the large ones were not downloaded

    def test_one_wrong_byte_in_a_chunk(
        self, hub: Hub, repo: str, many: Registry, many_on_hub: str, tmp_path: Path
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(many.path, copy, ignore=shutil.ignore_patterns("rows"))
        with (copy / "store.zarr" / "log_likelihood" / "c.0.0").open("r+b") as file:
            file.seek(1000)
            file.write(b"\x01")
        opened = llreg.open(published_as(hub, repo, many_on_hub, many, copy))
        np.testing.assert_array_equal(opened.row("org/m30").log_likelihood, many.row("org/m30").log_likelihood)
        with pytest.raises(InvalidFileError, match=r"store\.zarr: is damaged"):
            opened.row("org/m0")

    def test_bomb_in_what_is_read_by_ranges(
        self, hub: Hub, repo: str, many: Registry, many_on_hub: str, tmp_path: Path
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(many.path, copy)
        bomb = _with_crc32c(Zstd().encode(bytes(50 << 20)))
        index = _with_crc32c(struct.pack("<8Q", 0, len(bomb), *[(1 << 64) - 1] * 6))
        (copy / "store.zarr" / "num_tokens" / "c.0.0").write_bytes(bomb + bytes(300 << 10) + index)
        opened = llreg.open(published_as(hub, repo, many_on_hub, many, copy))
        tokens = opened.dataset().num_tokens
        hub.clear()
        with pytest.raises(InvalidFileError, match="num_tokens: expected chunks of 153,600 bytes; got 52,428,800"):
            tokens[7].load()
        assert sent(hub) == len(bomb) + len(index)

    def test_row_file_that_is_not_its_row(
        self, hub: Hub, repo: str, many: Registry, many_on_hub: str, tmp_path: Path
    ) -> None:
        """The store has the row intact: that is read instead, as from a directory."""
        copy = tmp_path / "copy"
        shutil.copytree(many.path, copy)
        names = [name for name in published(copy) if name.startswith("rows/")]
        for name in names:
            data = bytearray((copy / name).read_bytes())
            data[len(data) // 2] ^= 1
            (copy / name).write_bytes(data)
        opened = llreg.open(published_as(hub, repo, many_on_hub, many, copy))
        assert names
        np.testing.assert_array_equal(opened.row("org/m1").log_likelihood, many.row("org/m1").log_likelihood)
        assert len(opened.validate()) >= len(names)
