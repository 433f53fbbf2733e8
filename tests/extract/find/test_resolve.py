from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import llreg_extract
from llreg_schemas.errors import (
    InputError,
    ModelAccessError,
    ModelNotFoundError,
    UnsupportedModelError,
)

Editable = Callable[..., Path]


def edit_config(folder: Path, **changes: Any) -> str:
    """Change a checkpoint's config.json (None removes a key) and return the folder as text."""
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return str(folder)


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = (
        "import sys, llreg_extract; names = dir(llreg_extract); llreg_extract.resolve; "
        "print([m for m in ('torch', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_missing_library_names_the_extra(toy_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(toy_model("gpt2"))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r'torch is needed here .* pip install "llreg\[extract\]"'):
        llreg_extract.resolve(folder)


def test_a_local_directory(toy_model: Callable[..., Path]) -> None:
    folder = toy_model("llama", dtype="bfloat16")
    source = llreg_extract.resolve(str(folder))
    assert (source.name, source.kind, source.location) == ("toy-llama", "local", str(folder))
    assert source.revision.startswith("sha256:")
    assert len(source.revision) == 71
    assert (source.file, source.quantization, source.checkpoint_dtype) == (None, None, "bfloat16")
    weights = load_shapes(folder)
    assert source.declared == {
        "base_model": [],
        "relation": None,
        "licence": None,
        "architecture": "LlamaForCausalLM",
        "num_parameters": weights,
        "context_length": 128,
        "created": None,
        "tags": [],
        "downloads": None,
    }


def load_shapes(folder: Path) -> int:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="np") as tensors:
        return sum(int(np.prod(tensors.get_slice(key).get_shape())) for key in list(tensors.keys()))


def test_the_card_beside_a_local_model_is_read_and_cleaned(editable: Editable) -> None:
    folder = editable()
    (folder / "README.md").write_text(
        "---\nlicense: other\nlicense_name: my\u202elicence\nbase_model: [org/base, 'not a name', 7]\n"
        'base_model_relation: finetune\ntags: [code, 7, "a\\tb", code]\n---\nText.\n'
    )
    declared = llreg_extract.resolve(str(folder)).declared
    assert (declared["licence"], declared["base_model"]) == ("mylicence", ["org/base"])
    assert declared["relation"] == "finetune"
    assert declared["tags"] == ["code", "ab"]
    (folder / "README.md").write_text("---\n: : [\n---\n")
    assert llreg_extract.resolve(str(folder)).declared["licence"] is None


def test_the_revision_covers_weights_config_and_tokenizer_only(editable: Editable) -> None:
    folder = editable()
    seen = [llreg_extract.resolve(str(folder)).revision]
    (folder / "README.md").write_text("words")
    (folder / "extra.py").write_text("pass")
    assert llreg_extract.resolve(str(folder)).revision == seen[0]

    weights = load_file(folder / "model.safetensors")
    key = min(weights)
    weights[key] = weights[key].copy()
    weights[key].flat[0] = np.nextafter(weights[key].flat[0], 1)  # one bit
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    seen.append(llreg_extract.resolve(str(folder)).revision)

    with (folder / "tokenizer.json").open("a") as stream:
        stream.write(" ")
    seen.append(llreg_extract.resolve(str(folder)).revision)
    seen.append(llreg_extract.resolve(str(folder), trust_remote_code=True).revision)  # extra.py counts
    edit_config(folder, scale_attn_weights=False)
    seen.append(llreg_extract.resolve(str(folder)).revision)
    assert len(set(seen)) == len(seen)


def test_the_revision_is_the_documented_hash(editable: Editable) -> None:
    from hashlib import sha256

    folder = editable()
    names = sorted(path.name for path in folder.iterdir() if path.name != "generation_config.json")
    assert names == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    lines = "".join(f"{name} {sha256((folder / name).read_bytes()).hexdigest()}\n" for name in names)
    assert llreg_extract.resolve(str(folder)).revision == "sha256:" + sha256(lines.encode()).hexdigest()


def test_sharded_weights(editable: Editable) -> None:
    folder = editable()
    weights = load_file(folder / "model.safetensors")
    parts = [sorted(weights)[::2], sorted(weights)[1::2]]
    for number, keys in enumerate(parts):
        save_file({k: weights[k] for k in keys}, folder / f"part-{number}.safetensors", metadata={"format": "pt"})
    mapping = {key: f"part-{number}.safetensors" for number, keys in enumerate(parts) for key in keys}
    whole = llreg_extract.resolve(str(folder))
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": mapping}))
    sharded = llreg_extract.resolve(str(folder))
    assert sharded.declared["num_parameters"] == whole.declared["num_parameters"]
    assert sharded.revision != whole.revision
    values = [
        llreg_extract.score(llreg_extract.load(source, device="cpu"), ["some words"]).log_likelihood[0]
        for source in (sharded, llreg_extract.resolve(str(folder), name="x"))
    ]
    assert values[0] == values[1]
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"incomplete: .* names part-1.safetensors"):
        llreg_extract.resolve(str(folder))


@pytest.mark.parametrize(
    ("folder_name", "given", "name"),
    [("my model!", None, "my-model-"), ("_x", None, "x"), ("m", "org/other-1", "org/other-1")],
)
def test_local_names(editable: Editable, folder_name: str, given: str | None, name: str) -> None:
    assert llreg_extract.resolve(str(editable(name=folder_name)), name=given).name == name


def test_the_directory_given_as_a_dot_has_its_own_name(editable: Editable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(editable(name="here"))
    assert llreg_extract.resolve(".").name == "here"


def test_names_that_cannot_be(editable: Editable) -> None:
    with pytest.raises(InputError, match="give one with --name"):
        llreg_extract.resolve(str(editable(name="...模型")))
    with pytest.raises(InputError, match="no valid model name"):
        llreg_extract.resolve(str(editable()), name="a/b/c")


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "nowhere.gguf"])
def test_a_path_that_is_not_there(model: str) -> None:
    with pytest.raises(ModelNotFoundError, match="does not exist: check the path"):
        llreg_extract.resolve(model)


@pytest.mark.parametrize("model", ["a/b/c", "org/two--dashes", "a b", "", "x" * 5000, "a\0b"])
def test_neither_path_nor_hub_id(model: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"neither a path that exists nor a (valid )?Hub id"):
        llreg_extract.resolve(model)


def test_options_that_go_with_the_other_kind(toy_model: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="--revision goes with a Hub model only"):
        llreg_extract.resolve(str(toy_model("gpt2")), revision="main")
    with pytest.raises(InputError, match="--name goes with a local model only"):
        llreg_extract.resolve("org/name", name="other")


def test_the_hub_out_of_reach() -> None:
    with pytest.raises(
        ModelAccessError, match=r"cannot be reached and org/name is not in the local cache: .*HF_HUB_OFFLINE"
    ):
        llreg_extract.resolve("org/name")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "t5",
            r"toy-t5 is a T5ForConditionalGeneration \(encoder-decoder\), not a causal language model: llreg",
        ),
        ("bert", r"toy-bert is a BertForMaskedLM \(bidirectional encoder\), not a causal"),
        ("vit", "toy-vit is a ViTForImageClassification, not a causal"),
    ],
)
def test_models_that_are_not_causal(toy_model: Callable[..., Path], kind: str, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        llreg_extract.resolve(str(toy_model(kind)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": None}, "names no model_type"),
        ({"model_type": "novel"}, "model type 'novel', which this transformers does not know"),
        (
            {"model_type": "novel", "auto_map": {"AutoConfig": "a.B"}},
            "add --trust-remote-code if you trust its code",
        ),
        (
            {"architectures": ["GPT2ForSequenceClassification"]},
            "is a GPT2ForSequenceClassification, not a causal",
        ),
        ({"n_layer": "two"}, "config.json is not accepted: "),
    ],
)
def test_configs_that_are_refused(editable: Editable, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        llreg_extract.resolve(edit_config(editable(), **changes))


def test_files_that_are_missing_or_of_the_wrong_kind(editable: Editable) -> None:
    folder = editable()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match="safetensors or GGUF weights only; convert it with"):
        llreg_extract.resolve(str(folder))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelNotFoundError, match=r"has no weights: expected model.safetensors"):
        llreg_extract.resolve(str(folder))
    (folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UnsupportedModelError, match=r"model.safetensors is not a safetensors file or is cut short"):
        llreg_extract.resolve(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(UnsupportedModelError, match=r"config.json is not JSON"):
        llreg_extract.resolve(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"has no config.json"):
        llreg_extract.resolve(str(folder))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match=r"adapter_config.json names no peft_type"):
        llreg_extract.resolve(str(folder))
    (folder / "notes.txt").write_text("")
    with pytest.raises(UnsupportedModelError, match=r"notes.txt is no .gguf file"):
        llreg_extract.resolve(str(folder / "notes.txt"))


def test_a_link_to_itself_is_no_config(editable: Editable) -> None:
    folder = editable()
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("config.json")
    with pytest.raises(ModelNotFoundError, match=r"toy-gpt2 has no config.json"):
        llreg_extract.resolve(str(folder))


def test_several_gguf_files_are_a_question(tmp_path: Path) -> None:
    for name in ("a.Q4_0.gguf", "b.Q8_0.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"several GGUF files \(a.Q4_0.gguf, b.Q8_0.gguf\): choose one"):
        llreg_extract.resolve(str(tmp_path))


def test_the_quantisation_a_config_states(editable: Editable) -> None:
    settings = {"quant_method": "gptq", "bits": 4}
    folder = editable()
    plain = llreg_extract.resolve(str(folder))
    source = llreg_extract.resolve(edit_config(folder, quantization_config=settings))
    assert source.quantization == "gptq:4bit"
    # Counted from the config: in the headers of packed weights two to eight parameters are one element.
    assert source.declared["num_parameters"] == plain.declared["num_parameters"]


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"n_positions": 1024, "seq_length": 512}, 512),
        ({"max_position_embeddings": -1}, None),
        ({"model_type": "bloom", "seq_length": 2048}, None),
        ({"alibi": True, "max_position_embeddings": 2048}, None),
        ({"text_config": {"max_position_embeddings": 4096}, "vision_config": {"n_positions": 9}}, 4096),
        ({"max_seq_len": 300}, 300),
        ({}, None),
    ],
)
def test_context_length(config: dict[str, Any], limit: int | None) -> None:
    from llreg_extract.files.config import context_length

    assert context_length(config) == limit
