"""Toy models with random weights, built once a session and saved as real checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

ToyModel = Callable[..., Path]

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "def add(a, b):\n    return a + b\n",
    "",
    "x",
    "Bonjour à tous, ça va bien ?",
    "A longer text, which goes on about nothing for a while, then stops; and starts again, and stops.",
    "数学は楽しい。",
    "one two three four five six seven eight nine ten eleven twelve",
    " ",
]

_SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": {"intermediate_size": 64, "max_position_embeddings": 128},
    "llama": {"intermediate_size": 64, "max_position_embeddings": 128, "num_key_value_heads": 2},
    "mistral": {
        "intermediate_size": 64,
        "max_position_embeddings": 256,
        "num_key_value_heads": 2,
        "sliding_window": 8,
    },
    "gemma2": {
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "final_logit_softcapping": 3.0,
    },
    "phi3": {
        "intermediate_size": 64,
        "max_position_embeddings": 256,
        "original_max_position_embeddings": 100,  # longer than the self-check's probe
        "num_key_value_heads": 2,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4,
        },
    },
    "mixtral": {"intermediate_size": 24, "num_local_experts": 3, "num_key_value_heads": 2},
    "gpt_oss": {
        "intermediate_size": 24,
        "num_local_experts": 3,
        "num_experts_per_tok": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "mamba": {"state_size": 4, "expand": 2, "time_step_rank": 4},
    "bloom": {"n_layer": 2, "n_head": 4},
    "bert": {"intermediate_size": 64, "max_position_embeddings": 128},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
    "t5": {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4},
    "vit": {"intermediate_size": 64, "image_size": 16, "patch_size": 8},
}
_CLASSES = {
    "bert": "BertForMaskedLM",
    "t5": "T5ForConditionalGeneration",
    "vit": "ViTForImageClassification",
    "xlnet": "XLNetLMHeadModel",
}


@pytest.fixture(autouse=True)
def _no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the Hub's client at an empty cache, and offline; whatever runs in a subprocess inherits it."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Texts of all kinds: code, other scripts, blank, one character, empty."""
    return TEXTS


@pytest.fixture(scope="session")
def toy_tokenizer() -> Callable[..., Any]:
    """Factory of byte-level BPE tokenizers; ``bos`` and ``eos`` put a token before and behind a text."""

    def make(*, bos: bool = False, eos: bool = False, pad: bool = False) -> Any:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<s>", "</s>", "<pad>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(TEXTS, trainer)
        if bos or eos:
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{'<s> ' * bos}$A{' </s>' * eos}", special_tokens=[("<s>", 0), ("</s>", 1)]
            )
        named = {"bos_token": "<s>", "eos_token": "</s>", **({"pad_token": "<pad>"} if pad else {})}
        return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)

    return make


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory, toy_tokenizer: Callable[..., Any]) -> ToyModel:
    """Factory of saved toy models; equal arguments give the same directory, which tests must not change."""
    made: dict[str, Path] = {}

    def build(
        kind: str,
        *,
        bos: bool = False,
        eos: bool = False,
        pad: bool = False,
        dtype: str = "float32",
        blow_up: float = 1.0,
        **overrides: Any,
    ) -> Path:
        key = json.dumps([kind, bos, eos, pad, dtype, blow_up, overrides], sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp(kind) / f"toy-{kind}"
            module = make_module(kind, **overrides)
            for name, weight in module.named_parameters():
                if "mlp" in name:
                    weight.data *= blow_up
            module.to(getattr(torch, dtype)).save_pretrained(folder)
            toy_tokenizer(bos=bos, eos=eos, pad=pad).save_pretrained(folder)
            made[key] = folder
        return made[key]

    return build


def make_module(kind: str, **overrides: Any) -> Any:
    """A random model of one architecture; weights large enough for its predictions to differ."""
    sizes = {
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None if kind != "t5" else 2,
    }
    if kind in ("gpt2", "bloom", "xlnet", "t5"):
        for alias in ("num_hidden_layers", "num_attention_heads"):
            sizes.pop(alias)
    if kind in ("gpt2", "xlnet", "t5"):
        sizes.pop("hidden_size")
    config = transformers.AutoConfig.for_model(kind, **{**sizes, **_SIZES[kind], **overrides})
    torch.manual_seed(0)
    if kind in _CLASSES:
        return getattr(transformers, _CLASSES[kind])(config).eval()
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def editable(toy_model: ToyModel, tmp_path: Path) -> Callable[..., Path]:
    """Factory of copies of a toy model that a test may change."""
    import shutil

    def copy(kind: str = "gpt2", *, name: str | None = None, **options: Any) -> Path:
        source = toy_model(kind, **options)
        return Path(shutil.copytree(source, tmp_path / (name or source.name)))

    return copy
