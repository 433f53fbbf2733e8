"""Every tensor of the files is used or shown to be harmless, and every one of the model is from them or computed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

import llreg_extract
from llreg_schemas.errors import ModelError, UnsupportedModelError

Editable = Callable[..., Path]
TEXT = "the quick brown fox jumps over the lazy dog"


def load(folder: Path, **options: Any) -> llreg_extract.Model:
    trusted = options.get("trust_remote_code", False)
    source = llreg_extract.resolve(str(folder), trust_remote_code=trusted)
    return llreg_extract.load(source, device="cpu", **options)


def log_likelihood(model: llreg_extract.Model) -> float:
    return float(llreg_extract.score(model, [TEXT]).log_likelihood[0])


def exact(module: Any, folder: Path) -> float:
    """Log-likelihood by float64 arithmetic, without llreg."""
    ids = torch.tensor([Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids])
    with torch.no_grad():
        log_probs = module.double().eval()(ids).logits.log_softmax(-1)
    return float(log_probs[0, :-1].gather(-1, ids[0, 1:, None]).sum())


def add_tensors(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    path = folder / "model.safetensors"
    save_file({**load_file(path), **tensors}, path, metadata={"format": "pt"})


def configure(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def mask(size: int, dtype: torch.dtype = torch.bool) -> torch.Tensor:
    return torch.ones(size, size).tril().to(dtype)[None, None]


def rotary(theta: float) -> torch.Tensor:
    """Angles of 128 positions as transformers 4 kept their cosines, (1, 1, position, size of a head)."""
    angles = torch.outer(torch.arange(128.0), theta ** -(torch.arange(0, 8, 2) / 8))
    return torch.cat([angles, angles], -1)[None, None]


def test_rotary_positions_of_an_unknown_kind(editable: Editable) -> None:
    folder = editable("llama")
    configure(folder, rope_parameters={"rope_type": "fancy", "rope_theta": 10_000.0})
    with pytest.raises(
        UnsupportedModelError, match=r"rotary positions of the kind 'fancy', .*: correct rope_type there"
    ):
        load(folder)


def test_biases_that_the_config_leaves_out(editable: Editable) -> None:
    folder = editable("llama", attention_bias=True)
    path = folder / "model.safetensors"
    weights = {key: torch.randn_like(w) if key.endswith("bias") else w for key, w in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    module = transformers.LlamaForCausalLM(transformers.AutoConfig.from_pretrained(folder))
    module.load_state_dict(weights)
    model = load(folder)
    assert log_likelihood(model) == pytest.approx(exact(module, folder), rel=1e-5)
    configure(folder, attention_bias=False)
    with pytest.raises(
        UnsupportedModelError, match=r"_proj\.bias.* has no place .*: .* set attention_bias, or its like"
    ):
        load(folder)


def test_fewer_layers_in_the_config(editable: Editable) -> None:
    for kind, setting in (("llama", "num_hidden_layers"), ("gpt2", "n_layer")):
        folder = editable(kind)
        configure(folder, **{setting: 1})
        with pytest.raises(
            UnsupportedModelError, match=r"names fewer layers than the files hold: correct num_hidden_layers"
        ):
            load(folder)


def test_a_layer_that_the_class_ignores_by_its_number(
    editable: Editable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As classes of transformers do with the layer that drafts tokens: a layer like the others is none.
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = editable("llama")
    (folder / "drafting.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class DraftingConfig(LlamaConfig):\n    model_type = 'drafting'\n"
        "class Drafting(LlamaForCausalLM):\n"
        "    config_class = DraftingConfig\n    _keys_to_ignore_on_load_unexpected = [r'layers\\.2\\.']\n"
    )
    names = {"AutoConfig": "drafting.DraftingConfig", "AutoModelForCausalLM": "drafting.Drafting"}
    configure(folder, model_type="drafting", auto_map=names)
    layer = {key: w for key, w in load_file(folder / "model.safetensors").items() if "layers.1." in key}
    like = {key.replace("layers.1.", "layers.2."): weight.clone() for key, weight in layer.items()}
    add_tensors(folder, like)
    with pytest.raises(UnsupportedModelError, match="fewer layers than the files hold"):
        load(folder, trust_remote_code=True)
    add_tensors(folder, {"model.layers.2.eh_proj.weight": torch.ones(32, 64)})
    unused = llreg_extract.environment(load(folder, trust_remote_code=True))["unused_weights"]
    assert unused == "10 tensors: model.layers.2.*"


@pytest.mark.parametrize(
    ("kind", "name", "value", "fault"),
    [
        ("llama", "model.layers.{}.self_attn.rotary_emb.inv_freq", 10_000.0 ** -(torch.arange(0, 8, 2) / 8), None),
        ("llama", "model.layers.{}.self_attn.rotary_emb.inv_freq", 500.0 ** -(torch.arange(0, 8, 2) / 8), "rope_theta"),
        ("gpt_neox", "gpt_neox.layers.{}.attention.bias", mask(128, torch.uint8), None),
        ("gpt_neox", "gpt_neox.layers.{}.attention.masked_bias", torch.tensor(-1e9), None),
        ("gpt_neox", "gpt_neox.layers.{}.attention.bias", torch.ones(32), "has no place"),
        ("gpt2", "h.{}.attn.bias", mask(128, torch.float32), None),
        ("gpt2", "h.{}.attn.masked_bias", torch.tensor(-1e4), None),
        ("gpt2", "h.{}.attn.bias", torch.ones(1, 1, 8, 8), "has no place"),
        ("llama", "model.layers.{}.self_attn.q_proj.bias", torch.zeros(32), None),  # as AutoGPTQ writes them
        ("llama", "model.layers.{}.self_attn.q_norm.weight", torch.ones(8), "has no place"),
        ("llama", "lm_head.bias", torch.ones(300), "its output layer has no bias"),
        ("llama", "model.layers.{}.self_attn.rotary_emb.cos_cached", rotary(10_000.0).cos(), None),
        ("llama", "model.layers.{}.self_attn.rotary_emb.sin_cached", rotary(10_000.0).sin().bfloat16(), None),
        ("llama", "model.layers.{}.self_attn.rotary_emb.cos_cached", rotary(5_000.0).cos(), "rope_theta"),
    ],
)  # fmt: skip
def test_tensors_without_a_place(
    editable: Editable, toy_model: Callable[..., Path], kind: str, name: str, value: torch.Tensor, fault: str | None
) -> None:
    folder = editable(kind)
    add_tensors(folder, {name.format(layer): value.clone() for layer in (0, 1)})
    if fault is None:
        model = load(folder)
        assert log_likelihood(model) == log_likelihood(load(toy_model(kind)))
        assert "unused_weights" not in llreg_extract.environment(model)
    else:
        with pytest.raises(UnsupportedModelError, match=fault):
            load(folder)


def test_a_part_of_an_expert_is_missing(editable: Editable) -> None:
    folder = editable("mixtral")
    path = folder / "model.safetensors"
    weights = load_file(path)
    of_one = [key for key in weights if ".experts." in key and key.endswith(".w1.weight")]
    save_file({key: w for key, w in weights.items() if key != of_one[0]}, path, metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=r"toy-mixtral.* such as those of a layer's experts, do not fit"):
        load(folder)
    layer = of_one[0].rpartition("experts.")[0]
    weights = {key: w for key, w in weights.items() if not key.startswith(f"{layer}experts.2.")}
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=r"experts\.\w+ has the shape \(2, .* and \(3, .* by its config"):
        load(folder)


def test_frequencies_stored_before_scaling(editable: Editable) -> None:
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}
    folder = editable("llama", rope_parameters=rope)
    frequencies = 10_000.0 ** -(torch.arange(0, 8, 2) / 8)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        add_tensors(folder, {"model.layers.0.self_attn.rotary_emb.inv_freq": frequencies.to(dtype)})
        load(folder)
    add_tensors(folder, {"model.layers.0.self_attn.rotary_emb.inv_freq": frequencies * 1.1})
    with pytest.raises(UnsupportedModelError, match=r"is not what config\.json makes of it"):
        load(folder)


def test_code_beside_a_model_that_transformers_has_code_for(editable: Editable) -> None:
    folder = editable("llama")
    configure(folder, auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    assert llreg_extract.environment(load(folder))["unused_settings"] == "auto_map"


@pytest.mark.parametrize("role", ["AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"])
def test_code_in_another_repository(editable: Editable, role: str) -> None:
    folder = editable("llama")
    classes = (
        {"AutoTokenizer": ["org/other--own.Own", None]} if role == "AutoTokenizer" else {role: "org/other--own.Own"}
    )
    if role == "AutoTokenizer":
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": classes}))
    else:
        configure(folder, auto_map=classes)
    with pytest.raises(UnsupportedModelError, match=r"the code of toy-llama lies in another repository \(org/other\)"):
        load(folder, trust_remote_code=True)
    load(folder)


def test_what_lies_beside_a_language_model_is_recorded(editable: Editable) -> None:
    folder = editable("llama")
    add_tensors(folder, {"v_head.summary.weight": torch.ones(1, 32), "mtp.fc.weight": torch.ones(3)})
    unused = llreg_extract.environment(load(folder))["unused_weights"]
    assert unused == "2 tensors: mtp.fc.weight, v_head.summary.weight"


def test_settings_that_no_code_reads_are_recorded(editable: Editable) -> None:
    folder = editable("llama")
    assert "unused_settings" not in llreg_extract.environment(load(folder))
    configure(folder, logit_scale=0.5, attn_logit_softcapping=30.0, resid_pdrop=0.1, use_sliding_window=False)
    assert llreg_extract.environment(load(folder))["unused_settings"] == "attn_logit_softcapping, logit_scale"
    configure(
        folder, use_alibi=True, rope_theta=500000.0, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}
    )
    unused = llreg_extract.environment(load(folder))["unused_settings"]
    assert unused == "attn_logit_softcapping, logit_scale, rope_theta, use_alibi"


def test_integers_without_what_they_stand_for(editable: Editable) -> None:
    folder = editable("llama")
    add_tensors(folder, {"model.layers.0.mlp.up_proj.weight": torch.ones(64, 32, dtype=torch.int8)})
    with pytest.raises(UnsupportedModelError, match=r"up_proj\.weight holds integers \(I8\) .* no quantization_config"):
        load(folder)


def test_a_model_saved_in_its_wrapping(editable: Editable) -> None:
    folder = editable("llama")
    path = folder / "model.safetensors"
    save_file({f"_orig_mod.{key}": w for key, w in load_file(path).items()}, path, metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=r"named _orig_mod\..*: .* wrapped .*save the model inside"):
        load(folder)


def test_a_tied_head(editable: Editable) -> None:
    folder = editable("llama", tie_word_embeddings=True)
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    plain = log_likelihood(load(folder))
    add_tensors(folder, {"lm_head.weight": embedding.clone()})
    assert log_likelihood(load(folder)) == plain
    add_tensors(folder, {"lm_head.weight": embedding * 2})
    with pytest.raises(UnsupportedModelError, match=r"lm_head\.weight.* set tie_word_embeddings to false there"):
        load(folder)
    configure(folder, tie_word_embeddings=False)
    assert log_likelihood(load(folder)) != pytest.approx(plain)


def test_one_tensor_under_two_names(editable: Editable) -> None:
    folder = editable("gpt2")
    weights = load_file(folder / "model.safetensors")
    twin = {"wte.weight": weights["transformer.wte.weight"]} if "transformer.wte.weight" in weights else {}
    assert twin
    add_tensors(folder, {"wte.weight": twin["wte.weight"].clone()})
    load(folder)
    add_tensors(folder, {"wte.weight": twin["wte.weight"] + 1})
    with pytest.raises(UnsupportedModelError, match=r"wte\.weight .*differ in its files and are one tensor"):
        load(folder)


def shard(folder: Path) -> dict[str, Any]:
    """Split a checkpoint's weights in two; returns the index."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    path.unlink()
    keys, places = sorted(weights), {}
    for number, part in enumerate((keys[:5], keys[5:]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({key: weights[key] for key in part}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


def test_stale_files_beside_newer_ones(editable: Editable, toy_model: Callable[..., Path]) -> None:
    folder = editable("llama")
    stale = (folder / "model.safetensors").read_bytes()
    index = shard(folder)
    places = index["weight_map"]
    assert log_likelihood(load(folder)) == log_likelihood(load(toy_model("llama")))

    (folder / "model.safetensors").write_bytes(stale)
    with pytest.raises(UnsupportedModelError, match=r"has weights twice, in model\.safetensors and in the files that"):
        load(folder)
    # An index of the one file, as some programs write it.
    lone = {"metadata": {}, "weight_map": dict.fromkeys(places, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(lone))
    load(folder)
    (folder / "model.safetensors").unlink()

    other = {**places, "lm_head.weight": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({**index, "weight_map": other}))
    with pytest.raises(UnsupportedModelError, match=r"says that lm_head\.weight is in model-00002.*, where it is not"):
        load(folder)
    fewer = {key: file for key, file in places.items() if key != "lm_head.weight"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({**index, "weight_map": fewer}))
    with pytest.raises(UnsupportedModelError, match=r"lm_head\.weight .* the index of the weights does not know it"):
        load(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    second = folder / "model-00002-of-00002.safetensors"
    save_file({**load_file(second), "lm_head.weight": torch.ones(300, 32)}, second, metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=r"lm_head\.weight is in model-00001.* and in model-00002"):
        load(folder)


def test_files_of_the_wrong_length(editable: Editable) -> None:
    folder = editable("llama")
    path = folder / "model.safetensors"
    data = path.read_bytes()
    for changed, fault in (
        (data[:-10], "cut short"),
        (data + b"\0" * 10, "longer than it should be"),
        (data[:20], "cut short"),
    ):
        path.write_bytes(changed)
        with pytest.raises(UnsupportedModelError, match=fault):
            load(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_what_git_leaves_where_lfs_was_not_run(editable: Editable, file: str) -> None:
    folder = editable("llama")
    (folder / file).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n")
    with pytest.raises(UnsupportedModelError, match=rf"{file} of toy-llama is a git-lfs pointer .*: run git lfs pull"):
        load(folder)


# A model in the manner of older code on the Hub: buffers made in the constructor, a method that initialises whole blocks.
REMOTE = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

class ToyConfig(PretrainedConfig):
    model_type = "remote_toy"
    def __init__(self, vocab_size=300, width=16, initializer_range=0.3, **kwargs):
        self.vocab_size, self.width, self.hidden_size = vocab_size, width, width
        self.initializer_range = initializer_range
        super().__init__(**kwargs)

class Mixer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.inner = nn.Linear(config.width, config.width)
        self.scale = nn.Parameter(torch.ones(config.width))
        self.register_buffer("decay", {DECAY}, persistent={PERSISTENT})
        self.gain = torch.full((1,), 0.7)
        self.register_buffer("scratch", torch.empty(5), persistent=False)

    def forward(self, x):
        weights = (self.decay ** torch.arange(x.shape[1], device=x.device)).to(x.dtype)
        rows = [(x[:, : t + 1] * weights[: t + 1].flip(0)[None, :, None]).sum(1) for t in range(x.shape[1])]
        return torch.tanh(self.inner(torch.stack(rows, 1))) * self.scale * self.gain.to(x.dtype)

class ToyModel(PreTrainedModel):
    config_class = ToyConfig
    base_model_prefix = "body"
    {DECLARED}
    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.mixer = Mixer(config)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def _init_weights(self, module):
        if isinstance(module, Mixer):
            for weight in module.parameters():
                weight.data.normal_(0.0, self.config.initializer_range)

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        x = self.embed(input_ids)
        return CausalLMOutputWithPast(logits=self.lm_head(x + self.mixer(x)))
"""


@pytest.fixture
def remote(tmp_path: Path, toy_tokenizer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Factory of checkpoints with code: a folder, and the module that was saved."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))

    def make(name: str, *, decay: str = "torch.tensor(0.9)", persistent: bool = False, declared: str = "") -> Any:
        code = REMOTE.replace("{DECAY}", decay).replace("{PERSISTENT}", str(persistent)).replace("{DECLARED}", declared)
        classes: dict[str, Any] = {"__name__": f"remote_{name}"}
        exec(code, classes)  # noqa: S102 - the truth comes from the class itself, not from loading
        folder = tmp_path / name
        torch.manual_seed(0)
        module = classes["ToyModel"](classes["ToyConfig"]())
        for weight in module.parameters():
            weight.data.normal_(0.0, 0.5)
        folder.mkdir()
        (folder / "toy.py").write_text(code)
        save_file(module.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
        names = {"AutoConfig": "toy.ToyConfig", "AutoModelForCausalLM": "toy.ToyModel"}
        config = {"model_type": "remote_toy", "architectures": ["ToyModel"], "auto_map": names}
        (folder / "config.json").write_text(json.dumps(config))
        toy_tokenizer().save_pretrained(folder)
        return folder, module

    return make


def test_buffers_and_weights_of_remote_code(remote: Callable[..., Any]) -> None:
    folder, module = remote("mended")
    values = []
    for dtype in ("float32", "float32", "bfloat16"):
        torch.full((1000,), 3.25)  # memory that a buffer may come to lie in
        model = load(folder, trust_remote_code=True, dtype=dtype)
        values.append(log_likelihood(model))
    truth = exact(module, folder)
    assert values[0] == values[1] == pytest.approx(truth, rel=1e-5)
    assert values[2] == pytest.approx(truth, rel=2e-2)
    for key, weight in load_file(folder / "model.safetensors").items():
        assert torch.equal(model.module.state_dict()[key], weight.bfloat16()), key


def test_a_buffer_that_is_stored_or_computed(remote: Callable[..., Any]) -> None:
    # Stored, it is the file's, whatever the code computes; left out, the code's.
    folder, module = remote("stored", decay="torch.tensor(0.5)", persistent=True)
    module.mixer.decay.fill_(0.8)
    save_file(module.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    model = load(folder, trust_remote_code=True)
    assert log_likelihood(model) == pytest.approx(exact(module, folder), rel=1e-5)
    weights = {key: value for key, value in load_file(folder / "model.safetensors").items() if "decay" not in key}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model = load(folder, trust_remote_code=True)
    module.mixer.decay.fill_(0.5)
    assert log_likelihood(model) == pytest.approx(exact(module, folder), rel=1e-5)


def test_remote_code_that_draws_at_random(remote: Callable[..., Any]) -> None:
    folder, _ = remote("random", decay="torch.rand(())")
    with pytest.raises(UnsupportedModelError, match=r"makes the buffer mixer\.decay of random numbers"):
        load(folder, trust_remote_code=True)


def test_remote_code_that_lets_its_head_be_absent(remote: Callable[..., Any]) -> None:
    folder, _ = remote("headless", declared='_keys_to_ignore_on_load_missing = ["lm_head.weight"]')
    path = folder / "model.safetensors"
    weights = {key: value for key, value in load_file(path).items() if key != "lm_head.weight"}
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of the weights of a ToyModel \(lm_head\.weight\)"):
        load(folder, trust_remote_code=True)
