"""Run files: what they may say, and how what is wrong is told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llreg.add.request import check_key
from llreg.add.runfile import read_models, read_run_file
from llreg_schemas.errors import InputError

WHOLE = """
# models of a study
defaults:
  dtype: bfloat16
  trust_remote_code: no
models:
  - org/plain
  - model: org/other/file.Q4_0.gguf
    dtype: float32
  - model: org/other
    revision: 0123456       # of digits: not a number
    subset: 3e7             # an id of digits and e
    batch_tokens: 16_384
    overwrite: always
    trust_remote_code: true
  - {model: here/toy, name: 1.0}
"""
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(text: str) -> Path:
        path = tmp_path / "models.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return make


def test_entries_take_the_defaults_unless_they_say_otherwise(write: Write) -> None:
    common = {"dtype": "bfloat16", "trust_remote_code": False}
    assert read_run_file(write(WHOLE)) == [
        {**common, "model": "org/plain"},
        {**common, "model": "org/other/file.Q4_0.gguf", "dtype": "float32"},
        {
            "model": "org/other",
            "dtype": "bfloat16",
            "revision": "0123456",
            "subset": "3e7",
            "batch_tokens": 16384,
            "overwrite": "always",
            "trust_remote_code": True,
        },
        {**common, "model": "here/toy", "name": "1.0"},
    ]


def test_given_options_go_between(write: Write) -> None:
    entries = read_run_file(write(WHOLE), dtype="float16", device="cpu")
    assert [entry["dtype"] for entry in entries] == ["float16", "float32", "float16", "float16"]
    assert {entry["device"] for entry in entries} == {"cpu"}


@given(
    st.lists(
        st.fixed_dictionaries(
            {"model": st.from_regex(r"[A-Z][a-z]{0,5}/[a-z0-9][a-z0-9.-]{0,8}", fullmatch=True)},
            optional={
                "revision": st.from_regex(r"[a-z0-9._/-]{1,12}", fullmatch=True),
                "dtype": st.sampled_from(["auto", "float32", "bfloat16", "float16"]),
                "batch_tokens": st.integers(1, 10**6),
                "trust_remote_code": st.booleans(),
                "overwrite": st.sampled_from(["never", "only-missing", "always"]),
                "subfolder": st.from_regex(r"[a-z0-9._/-]{1,12}", fullmatch=True),
                "base": st.from_regex(r"[a-z0-9._/@-]{1,12}", fullmatch=True),
                "quantize": st.sampled_from(["int8", "int4"]),
            },
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda entry: entry["model"].casefold(),
    )
)
def test_what_a_yaml_library_writes_is_read_back(entries: list[dict[str, Any]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "models.yml"
        path.write_text(yaml.safe_dump({"models": entries}), encoding="utf-8")
        assert read_run_file(path) == entries
        path.write_text(json.dumps({"models": entries}), encoding="utf-8")  # JSON is YAML
        assert read_run_file(path) == entries


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("models:\n- model: a/b\n  revison: x\n", 3, "no key 'revison': did you mean revision?"),
        ("models:\n- model: a/b\n  batch-tokens: 5\n", 3, "no key 'batch-tokens': did you mean batch_tokens?"),
        ("models: [a/b]\ndefault:\n  dtype: auto\n", 2, "no key 'default': did you mean defaults?"),
        ("models: [a/b]\ndefaults:\n  name: x\n", 3, "no key 'name': known are dtype, subset, batch_tokens"),
        ("models: [a/b]\ndefaults:\n  <<: {dtype: auto}\n", 3, "no key '<<': known are dtype"),
        ("models:\n- model: a/b\n  dtype: float8\n", 3, "models.0.dtype: expected one of 'auto', 'float32'"),
        ("models:\n- model: a/b\n  batch_tokens: many\n", 3, "models.0.batch_tokens: expected a value of type integer"),
        ("models:\n- model: a/b\n  batch_tokens: 0\n", 3, "models.0.batch_tokens: expected a number of at least 1"),
        ("models:\n- model: a/b\n  trust_remote_code: 'yes'\n", 3, 'expected a value of type boolean; got "yes"'),
        ("models:\n- a/b\n- revision: x\n", 3, "models.1.model: expected a value; the field is missing"),
        ("models:\n- a/b\n- \n", 3, "models.1: expected a value of type string or object; got null"),
        ("models:\n- a/b\n- [c/d]\n", 3, "models.1: expected a value of type string or object"),
        ("models: []\n", 1, "models: expected at least 1 items"),
        ("defaults: {}\n", None, "models: expected a value; the field is missing"),
        ("models:\n- model: a/b\n  dtype: auto\n  dtype: float32\n", 4, "the key 'dtype' stands twice; take one out"),
        ("models: [a/b]\nmodels: [c/d]\n", 2, "the key 'models' stands twice"),
        ("models: [a/b]\n? [x]\n: y\n", 2, "expected a word as a key"),
        ("models:\n- a/b\n- c/d\n- a/b\n", 4, "a/b is listed on line 2 already, with the same options"),
        ("defaults: {dtype: auto}\nmodels:\n- a/b\n- {model: a/b, dtype: auto}\n", 4, "listed on line 3 already"),
        ("models: [a/b, a/b]\n", 1, "a/b is listed on line 1 already"),
        ("models:\n- a/b\n- A/b\n", 3, "A/b and a/b (line 2) differ only in case: spell a model one way"),
        ("models:\n- ./x/Toy\n- {model: ./y/z, name: toy}\n", 3, "toy and Toy (line 2) differ only in case"),
        ("models:\n- a/b/x.gguf\n- A/B/y.gguf\n", 3, "A/B and a/b (line 2) differ only in case"),
        ("models: &all\n- a/b\n- *all\n", 3, "aliases (*name) are not taken here"),
        ("models:\n- !!python/object/apply:os.system [ls]\n", 2, "no tag 'tag:yaml.org,2002:python/object/"),
        ("models:\n- !here a/b\n", 2, "no tag '!here' is taken here"),
        ("models:\n- " + "[" * 500, 2, "nested too deep for a run file"),
        (
            "models:\n- " + "[" * 5000,
            2,
            "nested too deep for a run file",
        ),  # some versions of the YAML library refuse it first
        ("models:\n- model: 'a/b\n", None, "expected YAML; "),
        ("models:\n- a/b\n---\nmodels: []\n", 3, "expected YAML; but found another document"),
        ("- a/b\n", None, "expected a mapping with the key models, a list of models"),
        ("", None, "expected a mapping with the key models, a list of models"),
        ('models:\n- "a\\tb"\n', 2, "models.0: expected text matching"),
        ("models:\n- a\x07b\n", None, "expected YAML; "),
    ],
)
def test_what_is_wrong_is_told_with_its_line(write: Write, text: str, line: int | None, told: str) -> None:
    path = write(text)
    with pytest.raises(InputError) as caught:
        read_run_file(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}:{line}: " if line else f"{path}:")
    assert told in message


def test_the_same_model_in_two_ways_is_two_rows(write: Write) -> None:
    text = "models:\n- {model: a/b, dtype: float32}\n- {model: a/b, dtype: bfloat16}\n- {model: a/b, revision: v2}\n"
    assert len(read_run_file(write(text))) == 3


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml cannot be read: No such file"):
        read_run_file(tmp_path / "none.yaml")
    (tmp_path / "big.yaml").write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(InputError, match="expected at most 1,048,576 bytes"):
        read_run_file(tmp_path / "big.yaml")
    (tmp_path / "latin.yaml").write_bytes("models: [ä/b]".encode("latin-1"))
    with pytest.raises(InputError, match="expected a run file in UTF-8"):
        read_run_file(tmp_path / "latin.yaml")


def test_other_files_hold_a_model_a_line(tmp_path: Path) -> None:
    path = tmp_path / "models.txt"
    path.write_text("# two\n\na/b   # the first\n  ./c#d\n", encoding="utf-8")
    assert read_models(path) == ["a/b", "./c#d"]
    assert read_models(tmp_path / "models.txt", dtype="float32") == ["a/b", "./c#d"]


def test_reading_loads_no_torch(write: Write) -> None:
    code = (
        f"import sys; from llreg.add.runfile import read_models; from pathlib import Path; read_models(Path({str(write(WHOLE))!r})); "
        "print([m for m in ('torch', 'transformers', 'huggingface_hub', 'zarr') if m in sys.modules])"
    )
    path = ":".join(entry for entry in sys.path if entry)
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    assert ran.stdout.strip() == "[]"


def test_a_key_that_is_near_none() -> None:
    check_key("dtype", ["dtype", "subset"], "option")
    with pytest.raises(InputError, match=r"no option 'zzz': known are dtype, subset"):
        check_key("zzz", ["dtype", "subset"], "option")
