"""A model's log-likelihoods without adding it: for a question, not for the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import llreg_extract

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llreg.registry import Registry


def score_model(
    registry: Registry, model: str, *, revision: str | None = None, dtype: str = "auto", device: str = "auto"
) -> NDArray[np.float32]:
    """Score a model on a registry's texts; nothing is kept.

    Parameters
    ----------
    registry : Registry
    model : str
        Hub id, directory or ``.gguf`` file.
    revision : str, optional
        Branch, tag or commit on the Hub.
    dtype, device : str
        As in `llreg.adding.Options`.

    Returns
    -------
    float32 array of shape (n_texts,), nats
        NaN where a text exceeds the model's context.

    Raises
    ------
    ModelError
        If the model cannot be scored.
    """
    source = llreg_extract.resolve(model, revision=revision, name=None, trust_remote_code=False)
    chosen, where = llreg_extract.choose(source, dtype=dtype, device=device)
    loaded = llreg_extract.load(source, dtype=chosen, device=where, trust_remote_code=False)
    return llreg_extract.score(loaded, registry.texts.complete()).log_likelihood
