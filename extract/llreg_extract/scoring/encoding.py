"""Texts -> token ids, by protocol ``modelmap-1``: as the checkpoint's own file says, nothing cut and nothing added behind."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from llreg_extract.model import Model
from llreg_schemas.errors import UnsupportedModelError

PROBE_TEXT = "The quick brown fox jumps over the lazy dog, and then it runs back into the old forest."

# What decided the ids, as a row's provenance has it.
Origin = Literal["tokenizer.json", "gguf", "sentencepiece", "transformers"]


# What a segmenter makes of texts: the tokens' ids, int32 of shape (token,) for each text; whether a part of a text is in no
# token of the vocabulary, bool of shape (n_texts,); and the byte of the text's UTF-8 at which each token begins, int32 of
# shape (token,) for each text, or None where the tokenizer does not tell. Tokens that share a character begin where it does.
Tokens = tuple[list[NDArray[np.int32]], NDArray[np.bool_], list[NDArray[np.int32]] | None]


class Segmenter(Protocol):
    """What cuts texts into tokens: one of the classes in `llreg_extract.loading.tokenizer`."""

    def __call__(self, texts: Sequence[str], /) -> Tokens:
        """The tokens of each text, without any special tokens of the tokenizer's own."""
        ...

    def changed(self, texts: Sequence[str], ids: Sequence[NDArray[np.int32]]) -> list[str | None]:
        """What the ids of texts stand for, where that is another text by more than a space before it, without what is in no
        token; None where it is the text itself, or that cannot be told."""
        ...


@dataclass(frozen=True)
class Tokenizer:
    """How texts become token ids.

    Attributes
    ----------
    segmenter : Segmenter
        Cuts a text into tokens.
    origin : {"tokenizer.json", "gguf", "sentencepiece", "transformers"}
        What the segmenter follows.
    prefix : int32 array of shape (n,)
        Special tokens that go before a text, such as BOS.
    num_appended : int
        Special tokens that transformers' tokenizer puts behind a text, such as EOS. They are no part of it, and left off.
    special : mapping of int to str
        Spellings of the special tokens by id.
    library : transformers tokenizer
        Renders chats; its own ids are not used.
    conflict : str
        What files of the checkpoint say otherwise than the one that is followed, in words; "" if nothing.
    """

    segmenter: Segmenter
    origin: Origin
    prefix: NDArray[np.int32]
    num_appended: int
    special: Mapping[int, str]
    library: Any
    conflict: str = ""

    @property
    def provenance(self) -> dict[str, Any]:
        """Pieces of a row's provenance: "tokenization", and "appended_tokens" and "tokenizer_conflict" where there are such."""
        return {
            "tokenization": self.origin,
            **({"appended_tokens": self.num_appended} if self.num_appended else {}),
            **({"tokenizer_conflict": self.conflict} if self.conflict else {}),
        }


@dataclass(frozen=True)
class Encoded:
    """Tokenised texts.

    Attributes
    ----------
    ids : tuple of int32 arrays of shape (n,)
        Token ids of each text, with the special tokens before it.
    special_token_texts : int
        Texts in which a special token's spelling became that token.
    starts : int64 array of shape (n_texts,)
        Index of the first token that is scored: what comes before it are special tokens and a prompt. It is 1 at least,
        for nothing predicts the first token of a sequence.
    unknown : bool array of shape (n_texts,)
        Whether a part of the text is in no token of the vocabulary, so that it has no log-likelihood.
    offsets : tuple of int32 arrays of shape (n,), or None
        Byte of each text (of a pair: of its response) at which each token begins, 0 for what is before it; None where the
        tokenizer does not tell.
    altered_texts : int
        Texts of which the model is shown something else, by more than a space before them: their tokenizer writes them in
        small letters, normalises them, or leaves white space out.
    shortened_texts : int
        Those among them of which other characters than white space are left out.
    prefixed_prompts : int
        Rendered prompts that got the tokenizer's prefix because their chat template does not write it.
    tokenizer : Tokenizer or None
        What made them, so that the model is loaded without reading it again; it does not go to other processes.
    """

    ids: tuple[NDArray[np.int32], ...]
    special_token_texts: int
    starts: NDArray[np.int64]
    unknown: NDArray[np.bool_]
    offsets: tuple[NDArray[np.int32], ...] | None = None
    altered_texts: int = 0
    shortened_texts: int = 0
    prefixed_prompts: int = 0
    tokenizer: Tokenizer | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "tokenizer": None}

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 of shape (n_texts,), tokens."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)

    def take(self, texts: NDArray[np.integer]) -> Encoded:
        """Some of the texts, by their indices: int array of shape (n_taken,), in any order, also repeated."""
        ids = tuple(self.ids[k] for k in texts)
        offsets = None if self.offsets is None else tuple(self.offsets[k] for k in texts)
        return replace(self, ids=ids, starts=self.starts[texts], unknown=self.unknown[texts], offsets=offsets)

    def num_scored(self, context_length: int | None) -> NDArray[np.int64]:
        """Tokens of each text that are scored, 0 where it has no log-likelihood: int64 of shape (n_texts,).

        Parameters
        ----------
        context_length : int or None
            Longest text in tokens that the model takes.
        """
        limit = np.inf if context_length is None else context_length
        has_value = (self.lengths <= limit) & ~self.unknown
        return np.where(has_value, np.maximum(self.lengths - self.starts, 0), 0)


def encode(model: Model, texts: Sequence[str]) -> Encoded:
    """Tokenise texts for a model.

    Parameters
    ----------
    model : Model
    texts : sequence of str

    Returns
    -------
    Encoded

    Raises
    ------
    UnsupportedModelError
        The tokenizer makes an id for which the model has no embedding.
    """
    encoded = tokenise(model.tokenizer, texts)
    check_range(model, encoded)
    return encoded


def tokenise(tokenizer: Tokenizer, texts: Sequence[str]) -> Encoded:
    """Tokenise texts in one call, with the special tokens that go before a text; no model is needed.

    Parameters
    ----------
    tokenizer : Tokenizer
    texts : sequence of str
    """
    content, unknown, begins = tokenizer.segmenter(list(texts))
    # The spelling tells a special token from an unknown one that shares its id.
    special_ids = np.array(sorted(tokenizer.special), dtype=np.int32)
    num_special = sum(
        any(tokenizer.special[int(token)] in text for token in ids[np.isin(ids, special_ids)])
        for text, ids in zip(texts, content, strict=True)
    )
    seen = [
        (text, other)
        for text, other, is_unknown in zip(texts, tokenizer.segmenter.changed(texts, content), unknown, strict=True)
        if other is not None and not is_unknown
    ]
    num_shortened = sum(_num_characters(other) < _num_characters(text) for text, other in seen)
    starts = np.full(len(content), max(1, len(tokenizer.prefix)), np.int64)
    ids = tuple(np.concatenate([tokenizer.prefix, row]) for row in content)
    offsets = None if begins is None else tuple(np.pad(row, (len(tokenizer.prefix), 0)) for row in begins)
    return Encoded(
        ids,
        num_special,
        starts,
        unknown,
        offsets,
        altered_texts=len(seen),
        shortened_texts=num_shortened,
        tokenizer=tokenizer,
    )


def _num_characters(text: str) -> int:
    """Characters of a text that are no white space; an accent that stands by itself is of its letter."""
    return len("".join(unicodedata.normalize("NFC", text).split()))


def check_range(model: Model, encoded: Encoded) -> None:
    """Refuse token ids for which a model has no embedding.

    Raises
    ------
    UnsupportedModelError
    """
    rows = model.module.get_input_embeddings().weight.shape[0]
    highest = max((int(row.max()) for row in encoded.ids if len(row)), default=-1)
    if highest >= rows:
        raise UnsupportedModelError(
            f"the tokenizer of {model.source.name} makes token id {highest} and the model has {rows} embeddings: "
            "they do not belong together"
        )
