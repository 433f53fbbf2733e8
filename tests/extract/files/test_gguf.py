"""GGUF checkpoints, written here from the toy llama so that the values are known."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import llreg_extract
from llreg_extract.files.gguf_header import read_gguf_header
from llreg_schemas.errors import ModelError, ModelNotFoundError, UnsupportedModelError

gguf = pytest.importorskip("gguf")

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers": "blk",
}
Write = Callable[..., Path]


def gguf_name(key: str) -> str:
    for long, short in _NAMES.items():
        key = key.replace(long, short)
    return key


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Order of rotary rows in llama.cpp: pairs side by side, where transformers keeps halves."""
    rows = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, rows, -1).swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture
def write_gguf(toy_model: Callable[..., Path], tmp_path: Path) -> Write:
    """Factory of GGUF files with the toy llama's weights."""

    def write(name: str = "toy.F32.gguf", *, quantised: bool = False, architecture: str = "llama") -> Path:
        folder = toy_model("llama")
        config = json.loads((folder / "config.json").read_text())
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if quantised else gguf.LlamaFileType.ALL_F32)
        writer.add_context_length(128)
        writer.add_embedding_length(32)
        writer.add_block_count(2)
        writer.add_feed_forward_length(64)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_rope_dimension_count(8)
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(10000.0)
        writer.add_vocab_size(300)
        add_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text()))
        for key, weight in load_file(folder / "model.safetensors").items():
            if "q_proj" in key or "k_proj" in key:
                weight = interleave(weight, 4 if "q_proj" in key else 2)
            if quantised and weight.ndim == 2:
                kind = gguf.GGMLQuantizationType.Q8_0
                writer.add_tensor(gguf_name(key), gguf.quants.quantize(weight, kind), raw_dtype=kind)
            else:
                writer.add_tensor(gguf_name(key), weight)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def add_tokenizer(writer: Any, tokenizer: dict[str, Any]) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    tokens += [f"[unused{i}]" for i in range(300 - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if t.startswith("<") and len(t) > 2 else gguf.TokenType.NORMAL for t in tokens]
    )
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)


def test_a_float32_gguf_scores_as_its_safetensors(
    write_gguf: Write, toy_model: Callable[..., Path], texts: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    source = llreg_extract.resolve(str(write_gguf()))
    assert (source.name, source.file, source.quantization) == ("toy.F32", "toy.F32.gguf", None)
    assert (source.kind, source.checkpoint_dtype) == ("local", "float32")
    capfd.readouterr()  # saving the toy model was not silent
    model = llreg_extract.load(source, device="cpu")
    assert capfd.readouterr() == ("", "")
    original = llreg_extract.load(llreg_extract.resolve(str(toy_model("llama"))), device="cpu")
    found, expected = (llreg_extract.score(m, texts) for m in (model, original))
    np.testing.assert_allclose(found.log_likelihood, expected.log_likelihood, rtol=1e-5)
    np.testing.assert_array_equal(found.num_tokens, expected.num_tokens)
    assert model.declared == {**original.declared}


def test_a_quantised_gguf_says_so_and_scores_nearly_the_same(write_gguf: Write, toy_model: Callable[..., Path]) -> None:
    source = llreg_extract.resolve(str(write_gguf("toy.Q8_0.gguf", quantised=True)))
    assert source.quantization == "gguf:Q8_0"
    model = llreg_extract.load(source, device="cpu")
    original = llreg_extract.load(llreg_extract.resolve(str(toy_model("llama"))), device="cpu")
    text = ["The quick brown fox jumps over the lazy dog."]
    found, expected = (llreg_extract.score(m, text).log_likelihood for m in (model, original))
    assert found != expected
    np.testing.assert_allclose(found, expected, rtol=0.02)
    reference = llreg_extract.reference_scores(model, text).log_likelihood
    np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_only_the_file_itself_counts(write_gguf: Write, toy_model: Callable[..., Path]) -> None:
    from hashlib import sha256

    path = write_gguf()
    source = llreg_extract.resolve(str(path.parent), name="by-directory")
    assert source.revision == "sha256:" + sha256(path.read_bytes()).hexdigest()
    assert source.file == path.name
    alone = llreg_extract.score(llreg_extract.load(source, device="cpu"), ["Some words."]).log_likelihood
    # A tokenizer that adds BOS lies beside it now: neither hash nor values may change.
    for file in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(toy_model("gpt2", bos=True) / file, path.parent)
    beside = llreg_extract.resolve(str(path))
    assert beside.revision == source.revision
    assert llreg_extract.score(llreg_extract.load(beside, device="cpu"), ["Some words."]).log_likelihood == alone


def test_gguf_files_that_are_refused(write_gguf: Write, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="is a t5 GGUF, not a causal language model"):
        llreg_extract.resolve(str(write_gguf("a.gguf", architecture="t5")))
    with pytest.raises(UnsupportedModelError, match="one part of a split GGUF: merge the parts"):
        llreg_extract.resolve(str(write_gguf("a-00001-of-00002.gguf")))
    (tmp_path / "b.gguf").write_bytes(b"PK\3\4 and so on")
    with pytest.raises(UnsupportedModelError, match="not a GGUF file llreg can read: it does not start with GGUF"):
        llreg_extract.resolve(str(tmp_path / "b.gguf"))
    (tmp_path / "c.gguf").write_bytes(b"GGUF\0\0\0\3")
    with pytest.raises(UnsupportedModelError, match="version 50331648, expected 2 or 3"):
        llreg_extract.resolve(str(tmp_path / "c.gguf"))
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        llreg_extract.resolve(str(tmp_path / "d.gguf"))


def test_an_architecture_transformers_cannot_read_is_told_at_load(write_gguf: Write) -> None:
    source = llreg_extract.resolve(str(write_gguf(architecture="novel")))
    with pytest.raises(ModelError, match=r"toy.F32 cannot be loaded: .*novel"):
        llreg_extract.load(source, device="cpu")


def test_a_header_cut_anywhere_is_refused_and_huge_counts_are_not_believed(write_gguf: Write) -> None:
    data = write_gguf().read_bytes()[:30_000]
    header = read_gguf_header(io.BytesIO(data), "toy")
    assert (header.architecture, header.context_length) == ("llama", 128)
    for size in [*range(0, 400, 7), 3_000, 6_000]:
        with pytest.raises(UnsupportedModelError, match="toy is not a GGUF file llreg can read"):
            read_gguf_header(io.BytesIO(data[:size]), "toy")
    huge = data[:8] + b"\xff" * 8 + data[16:]
    with pytest.raises(UnsupportedModelError, match="entries"):
        read_gguf_header(io.BytesIO(huge), "toy")


def test_the_header_agrees_with_the_gguf_package(write_gguf: Write) -> None:
    path = write_gguf(quantised=True)
    with path.open("rb") as stream:
        header = read_gguf_header(stream, "toy")
    reader = gguf.GGUFReader(path)
    assert header.num_parameters == sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert set(header.metadata) <= set(reader.fields)


def test_base_models_are_those_whose_address_the_header_gives(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "toy.gguf", "llama")
    writer.add_base_model_count(4)
    writer.add_base_model_repo_url(0, "https://huggingface.co/org/base-1.0")
    writer.add_base_model_name(1, "A name alone")
    writer.add_base_model_repo_url(2, "https://huggingface.co/org/second/")
    writer.add_base_model_repo_url(3, "https://elsewhere.example/org/third")
    writer.add_license("mit")
    writer.add_tensor("token_embd.weight", np.zeros((300, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    declared = llreg_extract.resolve(str(tmp_path / "toy.gguf")).declared
    assert declared["base_model"] == ["org/base-1.0", "org/second"]
    assert (declared["licence"], declared["relation"], declared["num_parameters"]) == ("mit", None, 9600)
