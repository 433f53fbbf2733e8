"""What a model needs, against what its files, its loaded weights and the system say."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import llreg_extract
from llreg_extract.files.tensors import count_elements, prevailing_dtype, read_header, stored_tensors
from llreg_schemas.errors import ModelError, UnsupportedModelError

ToyModel = Callable[..., Path]
MARGIN = 512 << 20


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
def test_weights_take_what_the_loaded_ones_take(toy_model: ToyModel, dtype: str, width: int) -> None:
    source = llreg_extract.resolve(str(toy_model("llama", dtype="bfloat16")))
    needs = llreg_extract.needs(source, dtype=dtype)
    module = llreg_extract.load(source, dtype=dtype, device="cpu").module
    loaded = sum(weight.numel() * weight.element_size() for weight in module.parameters())
    assert needs.weight_bytes == loaded == width * sum(weight.numel() for weight in module.parameters())
    assert needs.memory_bytes == int(loaded * 1.2) + MARGIN
    assert needs.download_bytes == 0


def test_a_quantised_checkpoint_takes_what_its_files_take(editable: Callable[..., Path]) -> None:
    folder = editable()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    needs = llreg_extract.needs(llreg_extract.resolve(str(folder)), dtype="float16")
    assert needs.weight_bytes == (folder / "model.safetensors").stat().st_size


def test_a_checkpoint_without_a_tokenizer_is_told_before_it_is_loaded(editable: Callable[..., Path]) -> None:
    folder = editable()
    (folder / "tokenizer.json").unlink()
    source = llreg_extract.resolve(str(folder))
    with pytest.raises(ModelError, match=r"toy-gpt2 has no tokenizer: put its tokenizer.json beside the weights"):
        llreg_extract.needs(source, dtype="float32")


def test_headers_are_counted_as_the_library_counts_them(toy_model: ToyModel) -> None:
    path = toy_model("gpt2", dtype="float16") / "model.safetensors"
    with path.open("rb") as stream:
        header = read_header(stream, path.name).values()
    elements = count_elements((tensor["dtype"], tensor["shape"]) for tensor in header)
    assert elements == {"F16": sum(weight.size for weight in load_file(path).values())}
    stored = stored_tensors(path.parent, "toy").values()
    assert count_elements((tensor.dtype, tensor.shape) for tensor in stored) == elements
    assert prevailing_dtype(elements) == "float16"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,  # a header of 2**64 - 1 bytes
        (20).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (9).to_bytes(8, "little") + b'{"a": {}}',
        (5000).to_bytes(8, "little") + b"[" * 5000,
    ],
)
def test_headers_that_are_none(data: bytes) -> None:
    with pytest.raises(UnsupportedModelError, match=r"x\.safetensors is not a safetensors file or is cut short"):
        read_header(io.BytesIO(data), "x.safetensors")


def test_memory_of_this_machine() -> None:
    memory = llreg_extract.device_memory("cpu")
    assert (memory.type, bool(memory.name)) == ("cpu", True)
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    total = next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemTotal")), None)
    if total is not None:
        assert memory.num_bytes is not None
        assert 0 < memory.num_bytes < total
