"""Families from declared bases, stems and architectures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llreg.geometry.families import families_of, read_families, stem
from llreg.registry import Registry
from llreg.store.rowfile import Row
from llreg_schemas import RowRecord
from llreg_schemas.errors import InputError

MakeRow = Callable[..., Row]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("EleutherAI/pythia-410m-deduped", "pythia"),
        ("EleutherAI/pythia-6.9b", "pythia"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2"),
        ("meta-llama/Meta-Llama-3-8B", "meta-llama-3"),
        ("mistralai/Mixtral-8x7B-v0.1", "mixtral"),
        ("stabilityai/stablelm-2-1_6b", "stablelm-2"),
        ("openai-community/gpt2-xl", "gpt2"),
        ("gpt2", "gpt2"),
        ("microsoft/phi-2", "phi-2"),
        ("org/7b-model", "7b-model"),
        ("a-local-directory/", "a-local-directory"),
    ],
)
def test_stem(name: str, expected: str) -> None:
    assert stem(name) == expected


@pytest.fixture
def record(registry: Registry, make_row: MakeRow) -> Callable[..., RowRecord]:
    """Factory of records: name, declared bases, architecture."""

    def make(name: str, base: list[str] | None = None, architecture: str | None = None) -> RowRecord:
        return make_row(registry, name, declared={"base_model": base or [], "architecture": architecture}).record

    return make


Record = Callable[..., RowRecord]


def test_a_chain_ends_in_one_family(record: Record) -> None:
    records = [
        record("org/base-1b", architecture="A"),
        record("me/tuned", ["org/base-1b"], "A"),
        record("you/tuned-again", ["me/tuned"], "A"),
        record("you/merge", ["me/tuned", "other/one-7b"], "A"),
        record("org/base-3b", architecture="A"),  # declares nothing, but its stem is a family
        record("she/unknown", architecture="A"),
        record("she/nothing-7b"),
    ]
    assert families_of(records) == ["base", "base", "base", "base", "base", "A", "nothing"]


def test_a_base_without_a_row_names_the_family(record: Record) -> None:
    records = [record("me/one", ["org/far-7b"]), record("me/two", ["org/far-13b-chat"])]
    assert families_of(records) == ["far", "far"]


def test_circles_end(record: Record) -> None:
    records = [
        record("a/x", ["b/y"]),
        record("b/y", ["a/x"]),
        record("c/self", ["c/self"], "A"),
        record("d/z", ["b/y"]),
    ]
    assert families_of(records) == ["x", "x", "A", "x"]


def test_families_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "families.csv"
    path.write_text("\ufefffamily,model,note\nx,a/b,1\n,a/c,2\ny,a/d\n", encoding="utf-8")
    assert read_families(path) == {"a/b": "x", "a/d": "y"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "expected CSV with columns model and family"),
        (b"model,kind\na/b,x\n", "expected CSV with columns model and family"),
        (b"model,family\na/b,\xe9\n", "expected CSV in UTF-8"),
    ],
)
def test_a_file_without_families(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "families.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=problem):
        read_families(path)
