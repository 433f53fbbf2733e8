"""Processes that push to one repository at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import MakeRow
from tests.hub.client import Hub
from tests.hub.people import answer, ask, built_anew, commits, models, python, row_names, tree

from llreg.hub.sync.pull import pull
from llreg.registry import Registry
from llreg.store.rowfile import Row, row_path, to_zip, write_row

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

Copies = Callable[[int], list[Registry]]
Fill = Callable[..., list[Row]]

# Loads everything once, forks a process for each registry, and lets all of them push when a pipe closes.
_WRITERS = """
import json, os, sys
import pyarrow.parquet, zarr, huggingface_hub.hf_api, huggingface_hub.file_download
import llreg.store.validate, llreg.store.build, llreg.hub.judge.describe, llreg.hub.sync.push
from llreg.registry import Registry

writers = json.loads(sys.stdin.readline())
gate, opener = os.pipe()
told, into = os.pipe()
children = []
for path, token in writers:
    child = os.fork()
    if not child:
        os.close(opener)
        os.environ["HF_TOKEN"] = token
        registry = Registry(path)
        os.write(into, b".")
        os.read(gate, 1)
        result = llreg.hub.sync.push.push(registry)
        print(json.dumps([path, result.rows, result.tries, result.commit]), flush=True)
        os._exit(0)
    children.append(child)
os.close(gate)
ready = b""
while len(ready) < len(children):
    ready += os.read(told, 100)
print(json.dumps(len(ready)), flush=True)
os.close(opener)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(json.dumps(codes), flush=True)
"""


def push_at_once(hub: Hub, writers: list[tuple[Registry, str]]) -> list[list[object]]:
    """Let a process for each registry push as some user; what each of them did, in the order of their ends."""
    with python(_WRITERS) as process:
        asked = [[str(registry.path), hub.tokens[user]] for registry, user in writers]
        assert process.stdin is not None
        assert ask(process, *asked) == len(writers)
        ends = [answer(process) for _ in writers]
        assert answer(process) == [0] * len(writers)
    return ends


@pytest.fixture
def place(publish_rows: Callable[..., str]) -> str:
    """A registry of the organisation's with one row, which alice and carol may write to."""
    return publish_rows("lab", 1)


@pytest.fixture
def copies(place: str, tmp_path: Path, clone_rows: Callable[[str, Path], Registry]) -> Callable[[int], list[Registry]]:
    """Factory: as many clones."""
    return lambda count: [clone_rows(place, tmp_path / f"w{k}") for k in range(count)]


def test_five_writers_at_once(hub: Hub, place: str, copies: Copies, fill: Fill, tmp_path: Path) -> None:
    registries = copies(5)  # ten commits that are refused, if each writer comes first once
    rows = [fill(registry, 1, start=10 + k)[0] for k, registry in enumerate(registries)]
    hub.clear()
    ends = push_at_once(hub, [(registry, "carol" if k % 2 else "alice") for k, registry in enumerate(registries)])
    by_path = {str(registry.path): row for registry, row in zip(registries, rows, strict=True)}
    assert {str(path): done for path, done, *_ in ends} == {path: [row.record.row_id] for path, row in by_path.items()}
    refused = [request.status for request in commits(hub.requests()) if request.status != 200]
    assert set(refused) <= {409, 412}
    assert len(refused) == sum(int(str(tries)) - 1 for _, _, tries, _ in ends)
    assert refused  # or they were not at once
    there = tree(hub, place)
    assert row_names(there) >= {row_path(row.record).as_posix() for row in rows}
    assert len(row_names(there)) == 6
    assert there == built_anew(there, tmp_path / "anew")
    assert hub.git(place, "rev-list", "--count", "main").strip() == str(3 + 5)
    last = registries[0]
    pull(last)
    assert len(models(last)) == 6
    assert (last.validate(), last.check_build()) == ([], [])


def test_two_people_push_the_same_model_at_once(
    hub: Hub, place: str, copies: Copies, make_row: MakeRow, tmp_path: Path
) -> None:
    registries = copies(3)
    one, *others = [
        make_row(
            registries[0], "org/same", 5, provenance={"contributor": name}, added_at=f"2026-03-0{k}T00:00:00.000000Z"
        )
        for k, name in enumerate(("Ada", "Bob"), 1)
    ]
    assert {row.record.digest for row in others} == {one.record.digest}
    replicate = make_row(registries[0], "org/same", 6)
    for registry, row in zip(registries, (one, *others, replicate), strict=True):
        write_row(registry.path, row)
    ends = push_at_once(hub, [(registry, "alice") for registry in registries])
    published = [path for path, rows, *_ in ends if rows]
    assert len(published) == 2  # one of the two, and the replicate
    assert str(registries[2].path) in published
    there = tree(hub, place)
    assert len(row_names(there)) == 3
    assert there == built_anew(there, tmp_path / "anew")
    name = row_path(one.record).as_posix()
    assert there[name] in [to_zip(row) for row in (one, *others)]
    for registry in registries:
        pull(registry)
        assert (registry.validate(), registry.check_build()) == ([], [])
        assert (registry.path / "models.parquet").read_bytes() == there["models.parquet"]
        assert not (registry.path / name).exists() or (registry.path / name).read_bytes() == there[name]
    assert models(registries[0]) == ["org/m0", "org/same", "org/same"]
