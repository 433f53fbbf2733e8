"""A blob of the Hub's cache must be what its name says."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tools.model_hub import git_oid

import llreg_extract
from llreg_schemas.errors import ModelError

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path: Path, toy_model: Callable[..., Path]) -> Path:
    """The snapshot of org/toy in a cache as the Hub's client leaves it."""
    repo = tmp_path / "hf" / "hub" / "models--org--toy"
    snapshot = repo / "snapshots" / SHA
    for folder in (snapshot, repo / "blobs", repo / "refs"):
        folder.mkdir(parents=True)
    (repo / "refs" / "main").write_text(SHA)
    for path in toy_model("llama").iterdir():
        data = path.read_bytes()
        blob = hashlib.sha256(data).hexdigest() if path.suffix == ".safetensors" else git_oid(data)
        (repo / "blobs" / blob).write_bytes(data)
        (snapshot / path.name).symlink_to(f"../../blobs/{blob}")
    return snapshot


def load() -> llreg_extract.Model:
    return llreg_extract.load(llreg_extract.resolve("org/toy"), device="cpu")


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_blob_that_is_not_its_name(cached: Path, file: str) -> None:
    load()
    blob = (cached / file).resolve()
    data = bytearray(blob.read_bytes())
    if file == "model.safetensors":
        data[-1] ^= 1
    else:
        data[-1:] = b" " + data[-1:]
    blob.write_bytes(data)
    with pytest.raises(ModelError, match=rf"{file} of org/toy in the Hub's cache is damaged, .* delete .*{blob.name}"):
        load()


def test_what_was_checked_is_not_read_again(cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    memory = tmp_path / "cache" / "llreg" / "checked-blobs"
    load()
    lines = memory.read_text().splitlines()
    assert {json.loads(line)[0] for line in lines} >= {str((cached / "model.safetensors").resolve())}
    load()
    assert memory.read_text().splitlines() == lines
    # The same bytes, at another time: checked anew.
    os.utime((cached / "model.safetensors").resolve(), ns=(1, 1))
    load()
    assert len(memory.read_text().splitlines()) == len(lines) + 1
    memory.write_bytes(b"\xff\xfe no lines")
    load()
    memory.unlink()
    memory.mkdir()
    load()  # neither read nor written


def test_a_cache_without_links_has_no_names_to_go_by(cached: Path) -> None:
    for path in list(cached.iterdir()):
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    load()


def test_a_reference_that_an_editor_saved_is_no_obstacle_to_deleting(cached: Path) -> None:
    repo = cached.parents[1]
    (repo / "refs" / "main").write_text(f"{SHA}\n")
    assert llreg_extract.evict(llreg_extract.Revision("org/toy", SHA)) > 0
    assert not cached.exists()


def test_a_cache_that_is_not_in_order_is_not_said_to_be_deleted(cached: Path) -> None:
    (cached.parents[1] / "refs" / "side").write_text("0" * 40)
    with pytest.raises(ModelError, match=r"the cache of org/toy is not in order: .*missing commit"):
        llreg_extract.evict(llreg_extract.Revision("org/toy", SHA))
    assert cached.exists()
