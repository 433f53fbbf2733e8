"""Toy models, built once a session and saved as real checkpoints; torch is imported only where one is asked for."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ToyModel = Callable[..., Path]


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> ToyModel:
    """Factory of random GPT-2 checkpoints with a byte-level tokenizer: ``toy_model("name", n_embd=32, seed=0)``.

    `gain` multiplies the weights of the feed-forward layers, so that a narrow dtype overflows. Equal arguments give
    the same directory, which tests must not change.
    """
    made: dict[str, Path] = {}

    def build(name: str = "toy", *, seed: int = 0, gain: float = 1.0, **sizes: Any) -> Path:
        key = repr((name, seed, gain, sorted(sizes.items())))
        if not made:
            import transformers  # noqa: F401

            gc.freeze()  # every model that is let go of is followed by a collection: let it not look at torch each time
        if key not in made:
            made[key] = _save(tmp_path_factory.mktemp("models") / name, seed, gain, sizes)
        return made[key]

    return build


def _save(folder: Path, seed: int, gain: float, sizes: dict[str, Any]) -> Path:
    import transformers

    transformers.set_seed(seed)
    defaults = {
        "n_layer": 2,
        "n_embd": 32,
        "n_head": 4,
        "n_positions": 1280,
        "vocab_size": 300,
        "initializer_range": 0.1,
    }
    config = transformers.GPT2Config(**{**defaults, **sizes}, bos_token_id=0, eos_token_id=0)
    module = transformers.GPT2LMHeadModel(config)
    for name, weight in module.named_parameters():
        if "mlp" in name:
            weight.data.mul_(gain)
    module.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog and returns"] * 3, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
