"""Tokenizers of the kinds that checkpoints have, trained on a few lines."""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and then it runs back into the old forest.",
    "def add(a, b):\n    return a + b  # 12345 and 678",
    "Bonjour à tous, ça va bien ? 数学は楽しい。",
]
# By the published tokenizer cl100k_base (openai/tiktoken, tiktoken_ext/openai_public.py).
CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(*before: Any) -> tokenizers.Tokenizer:
    """Byte-level BPE behind other pre-tokenizers."""
    backend = tokenizers.Tokenizer(models.BPE())
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not before or "Digits" in repr(before[0]))
    backend.pre_tokenizer = pre_tokenizers.Sequence([*before, last])
    backend.decoder = decoders.ByteLevel()
    return trained(backend, trainers.BpeTrainer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def like_llama() -> tokenizers.Tokenizer:
    """BPE with byte fallback over "▁", without a pre-tokenizer, as the files of Llama 2."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<s>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return trained(backend, trainers.BpeTrainer, extra=[f"<0x{byte:02X}>" for byte in range(256)])


def unigram() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return trained(backend, trainers.UnigramTrainer, unk_token="[UNK]")


def unigram_over_bytes() -> tokenizers.Tokenizer:
    """Unigram with byte fallback: a run of characters without a token becomes bytes."""
    pieces = [
        ("[UNK]", 0.0),
        ("<s>", 0.0),
        ("▁", -3.0),
        ("the", -4.0),
        ("▁the", -4.5),
        *((c, -5.0) for c in "abefhotx12345"),
    ]
    backend = tokenizers.Tokenizer(
        models.Unigram([*pieces, *((f"<0x{b:02X}>", -9.0) for b in range(256))], 0, byte_fallback=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return with_added(backend)


def word_piece() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return trained(backend, trainers.WordPieceTrainer)


def trained(backend: Any, trainer: Any, *, extra: list[str] | None = None, **options: Any) -> tokenizers.Tokenizer:
    special = ["<s>", "</s>", "[UNK]", *(extra or [])]
    backend.train_from_iterator(CORPUS, trainer(vocab_size=600, special_tokens=special, show_progress=False, **options))
    return with_added(backend)


def with_added(backend: Any) -> tokenizers.Tokenizer:
    backend.add_tokens([AddedToken("<left>", lstrip=True), AddedToken("<right>", rstrip=True, normalized=True)])
    return backend


BACKENDS = {
    "byte level": byte_level(),
    "digits": byte_level(pre_tokenizers.Digits(individual_digits=True)),
    "split": byte_level(pre_tokenizers.Split(tokenizers.Regex(CL100K), "isolated")),
    "llama": like_llama(),
    "unigram": unigram(),
    "unigram over bytes": unigram_over_bytes(),
    "word piece": word_piece(),
}
# Parts of texts that tokenizers treat each in its own way.
PIECES = [
    *(
        "  ",
        " ",
        "\n",
        "\t",
        "▁",
        "12345",
        "fox",
        "the lazy",
        "don't",
        "é",
        "数学",
        "\u0301",
        "🦊",
        "ﬃ",
        "e\u0301\u0323",
    ),
    *("<s>", "[UNK]", "<left>", "<right>"),
]
