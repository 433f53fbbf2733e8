"""Models with random weights, of the shapes of known ones: to measure speed with, where nothing can be downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llreg_extract.libraries import quiet, require
from llreg_extract.loading.load import make_ready
from llreg_extract.model import Model
from llreg_extract.scoring.encoding import PROBE_TEXT
from llreg_extract.source import Source
from llreg_schemas.errors import InputError

# Of the Llama architecture; the sizes as their config.json has them.
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 4096,
        "tie_word_embeddings": True,
    },
    "smollm2-135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49_152,
        "tie_word_embeddings": True,
    },
    "llama-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "tie_word_embeddings": True,
    },
    "llama-7b": {
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32_000,
        "tie_word_embeddings": False,
    },
}
_CONTEXT = 4096  # tokens
_MERGED_VOCABULARY = 8192  # at most; enough for four bytes a token on a hundred texts


def random_model(shape: str, texts: Sequence[str], *, dtype: str, device: str) -> Model:
    """A model of a shape with random weights, always the same ones, ready for scoring.

    Its tokenizer is made from the texts, so that they have about as many tokens as with that of a real model.

    Parameters
    ----------
    shape : str
        One of `SHAPES`.
    texts : sequence of str
    dtype, device : str
        As `llreg_extract.choose` gives them.

    Raises
    ------
    InputError
        An unknown shape.
    MissingExtraError
        torch or transformers is not installed.
    """
    if shape not in SHAPES:
        raise InputError(f"unknown shape {shape!r}: choose one of {', '.join(SHAPES)}")
    require("torch", "transformers")
    tokenizer = make_tokenizer(texts, SHAPES[shape]["vocab_size"])
    module = make_module(shape, dtype, device)
    return make_ready(_make_source(shape, dtype, module), module, tokenizer, dtype)


def make_module(shape: str, dtype: str, device: str) -> Any:
    """A causal language model of transformers with random weights, as that library makes it."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=_CONTEXT)
    with quiet(), torch.device(device), torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()


def make_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer of at most `vocabulary` of the texts' own words, which adds no special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocabulary, _MERGED_VOCABULARY),
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([PROBE_TEXT, *texts], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def _make_source(shape: str, dtype: str, module: Any) -> Source:
    return Source(
        name=f"random-{shape}",
        kind="local",
        location="",
        revision="",
        file=None,
        quantization=None,
        checkpoint_dtype=dtype,
        declared={"architecture": type(module).__name__, "num_parameters": int(module.num_parameters())},
    )
