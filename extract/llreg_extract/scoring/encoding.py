"""Texts -> token ids, by protocol ``modelmap-1``: the tokenizer's defaults, nothing cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llreg_extract.model import Model
from llreg_schemas.errors import UnsupportedModelError

PROBE_TEXT = "The quick brown fox jumps over the lazy dog, and then it runs back into the old forest."


@dataclass(frozen=True)
class Encoded:
    """Tokenised texts.

    Attributes
    ----------
    ids : tuple of int32 arrays of shape (n,)
        Token ids of each text, special tokens included.
    special_token_texts : int
        Texts in which a special token's spelling became that token.
    starts : int64 array of shape (n_texts,)
        Index of the first token that is scored: 1 where all but the first are, more where a prompt comes before.
    """

    ids: tuple[NDArray[np.int32], ...]
    special_token_texts: int
    starts: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 of shape (n_texts,), tokens."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)


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


def tokenise(tokenizer: Any, texts: Sequence[str]) -> Encoded:
    """Tokenise texts in one call, with the tokenizer's default special tokens; no model is needed.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    texts : sequence of str
    """
    if not texts:
        return Encoded((), 0, np.empty(0, np.int64))
    # verbose=False: texts past the context are expected here, and left unscored later.
    output = tokenizer(list(texts), return_attention_mask=False, return_token_type_ids=False, verbose=False)
    ids = tuple(np.asarray(row, dtype=np.int32) for row in output["input_ids"])
    return Encoded(ids, _count_special(tokenizer, texts, ids), np.ones(len(ids), np.int64))


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


def special_prefix(tokenizer: Any) -> int:
    """Number of special tokens the tokenizer puts before a text."""
    plain = list(tokenizer(PROBE_TEXT, add_special_tokens=False)["input_ids"])
    full = list(tokenizer(PROBE_TEXT)["input_ids"])
    starts = range(len(full) - len(plain) + 1)
    return next((start for start in starts if full[start : start + len(plain)] == plain), 0)


def _count_special(tokenizer: Any, texts: Sequence[str], ids: Sequence[NDArray[np.int32]]) -> int:
    """Texts in which the spelling of a special token became that token."""
    spellings = {
        number: str(token.content) for number, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    for number, token in zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True):
        spellings[int(number)] = str(token)
    special_ids = np.array(sorted(spellings), dtype=np.int32)
    count = 0
    for text, row in zip(texts, ids, strict=True):
        # The spelling tells tokens of the text from those the tokenizer adds, and from unknown ones that
        # share a special token's id.
        count += any(spellings[int(token)] in text for token in row[np.isin(row, special_ids)])
    return count
