"""A model's log-likelihoods without adding it: for a question, not for the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import llreg_extract

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents


def score_model(
    registry: Contents, model: str, *, revision: str | None = None, dtype: str = "auto", device: str = "auto"
) -> NDArray[np.float32]:
    """Score a model on a registry's texts; nothing is kept.

    Parameters
    ----------
    registry : Contents
    model : str
        Hub id, directory or ``.gguf`` file.
    revision : str, optional
        Branch, tag or commit on the Hub.
    dtype, device : str
        As in `llreg.add.request.Options`.

    Returns
    -------
    float32 array of shape (n_texts,), nats
        NaN where a text exceeds the model's context. In a registry of (prompt, response) pairs of shape (2, n_texts):
        responses given their prompts, and alone.

    Raises
    ------
    ModelError
        If the model cannot be scored.
    """
    source = llreg_extract.resolve(model, revision=revision, trust_remote_code=False)
    dtype, device = llreg_extract.choose(source, dtype=dtype, device=device)
    loaded = llreg_extract.load(source, dtype=dtype, device=device, trust_remote_code=False)
    texts = registry.texts.complete()
    if registry.rendering is None:
        return llreg_extract.score(loaded, texts).log_likelihood
    with_prompts, alone = llreg_extract.score_pairs(loaded, texts, registry.rendering)
    return np.stack([with_prompts.log_likelihood, alone.log_likelihood])
