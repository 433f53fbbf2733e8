"""Models in a folder of a directory: their own tokenizer or the root's, what pins them, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import llreg_extract
from llreg_schemas.errors import InputError, ModelError, ModelNotFoundError

TEXT = "Some words, and then some more."
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def value(folder: Path, subfolder: str | None = None) -> float:
    model = llreg_extract.load(llreg_extract.resolve(str(folder), subfolder=subfolder), device="cpu")
    return float(llreg_extract.score(model, [TEXT]).log_likelihood[0])


@pytest.fixture
def nested(toy_model: Callable[..., Path], tmp_path: Path) -> Path:
    """A directory with a model in ``last/step-9``, and another tokenizer and config at its root."""
    root = tmp_path / "run"
    shutil.copytree(toy_model("llama"), root / "last" / "step-9")
    for file in ("config.json", *TOKENIZER):
        shutil.copy(toy_model("gpt2", bos=True) / file, root / file)
    return root


def test_the_tokenizer_beside_the_weights_is_used(nested: Path, toy_model: Callable[..., Path]) -> None:
    source = llreg_extract.resolve(str(nested), subfolder="./last/step-9/")
    assert (source.name, source.location, source.identity["subfolder"]) == ("run", str(nested), "last/step-9")
    assert source.declared["architecture"] == "LlamaForCausalLM"
    assert value(nested, "last/step-9") == value(toy_model("llama"))
    assert llreg_extract.needs(source, dtype="float32").weight_bytes == 4 * source.declared["num_parameters"]


def test_else_the_one_at_the_root(nested: Path, toy_model: Callable[..., Path]) -> None:
    for file in TOKENIZER:
        (nested / "last" / "step-9" / file).unlink()
    assert value(nested, "last/step-9") == value(toy_model("llama", bos=True))
    assert (
        llreg_extract.needs(llreg_extract.resolve(str(nested), subfolder="last/step-9"), dtype="float32").download_bytes
        == 0
    )
    for file in TOKENIZER:
        (nested / file).unlink()
    with pytest.raises(ModelError, match=r"run has no tokenizer: put its tokenizer.json beside the weights"):
        value(nested, "last/step-9")


def test_the_hash_covers_the_files_that_are_used(nested: Path) -> None:
    def pinned() -> str:
        return llreg_extract.resolve(str(nested), subfolder="last/step-9").revision

    inside, seen = nested / "last" / "step-9", [pinned()]
    (nested / "config.json").write_text("{}")
    (nested / "tokenizer.json").write_text((nested / "tokenizer.json").read_text() + " ")
    assert pinned() == seen[0]
    config = json.loads((inside / "config.json").read_text())
    (inside / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    seen.append(pinned())
    for file in TOKENIZER:
        (inside / file).unlink()
    seen.append(pinned())
    (nested / "tokenizer.json").write_text((nested / "tokenizer.json").read_text() + " ")
    seen.append(pinned())
    assert len(set(seen)) == len(seen)


def test_a_gguf_there_is_named_by_its_path(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    import numpy as np

    (tmp_path / "run" / "Q4").mkdir(parents=True)
    writer = gguf.GGUFWriter(tmp_path / "run" / "Q4" / "toy.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((300, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    source = llreg_extract.resolve(str(tmp_path / "run"), subfolder="Q4")
    assert (source.name, source.file, source.identity["subfolder"]) == ("run", "Q4/toy.gguf", None)
    assert source.revision == llreg_extract.resolve(str(tmp_path / "run" / "Q4" / "toy.gguf")).revision
    with pytest.raises(InputError, match=r"toy is a GGUF file: --quantize goes with safetensors"):
        llreg_extract.resolve(str(tmp_path / "run" / "Q4" / "toy.gguf"), quantize="int8")
    with pytest.raises(InputError, match=r"toy.gguf is a file: --subfolder goes with a repository or a directory"):
        llreg_extract.resolve(str(tmp_path / "run" / "Q4" / "toy.gguf"), subfolder="Q4")


@pytest.mark.parametrize("subfolder", ["../run", "/tmp", "a/../../b", "", ".", "模型", "a\0b", "x" * 400])
def test_folders_that_cannot_be(nested: Path, subfolder: str) -> None:
    with pytest.raises(InputError, match=r"is no folder inside a model: expected a name like checkpoint-500"):
        llreg_extract.resolve(str(nested), subfolder=subfolder)


def test_a_folder_that_is_not_there(nested: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="run has no folder step-9: check the name"):
        llreg_extract.resolve(str(nested), subfolder="step-9")
    (nested / "empty").mkdir()
    with pytest.raises(ModelNotFoundError, match="run has no weights"):
        llreg_extract.resolve(str(nested), subfolder="empty")
