"""Models with random weights, of the shapes of known ones: to measure speed with, where nothing can be downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llreg_extract.libraries import quiet, require
from llreg_extract.loading.load import make_ready
from llreg_extract.loading.tokenizer import follow_backend
from llreg_extract.model import Model
from llreg_extract.scoring.encoding import PROBE_TEXT, Tokenizer
from llreg_extract.source import Source
from llreg_schemas.errors import InputError

# Of the Llama architecture; the sizes as their config.json has them.
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
SHAPES: dict[str, dict[str, Any]] = {
    name: {**dict(zip(_SIZES, sizes, strict=True)), "vocab_size": vocabulary, "tie_word_embeddings": tied}
    for name, sizes, vocabulary, tied in (
        ("tiny", (64, 176, 2, 4, 2), 4096, True),
        ("smollm2-135m", (576, 1536, 30, 9, 3), 49_152, True),
        ("llama-1b", (2048, 8192, 16, 32, 8), 128_256, True),
        ("llama-7b", (4096, 11_008, 32, 32, 32), 32_000, False),
    )
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
    source = Source(
        name=f"random-{shape}",
        kind="local",
        location="",
        revision="",
        file=None,
        quantization=None,
        checkpoint_dtype=dtype,
        declared={"architecture": type(module).__name__, "num_parameters": int(module.num_parameters())},
    )
    return make_ready(source, module, tokenizer, dtype)


def make_module(shape: str, dtype: str, device: str) -> Any:
    """A causal language model of transformers with random weights, as that library makes it."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=_CONTEXT)
    with quiet(), torch.device(device), torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()


def make_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE tokenizer of at most `vocabulary` of the texts' own words, which adds no special tokens."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocabulary, _MERGED_VOCABULARY),
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([PROBE_TEXT, *texts], trainer)
    library = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    return follow_backend("random", tokenizer, library, "tokenizer.json")
