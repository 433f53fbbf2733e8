"""A model's row without adding it: for a question, not for the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import llreg_extract
from llreg.add.job import Job, Scoring, sequences_of
from llreg.add.reporter import Reporter
from llreg_schemas import Identity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents
    from llreg.store.rowfile import Row


def score_model(
    registry: Contents, model: str, *, revision: str | None = None, dtype: str = "auto", device: str = "auto"
) -> NDArray[np.float32]:
    """The log-likelihoods of `score_row`.

    Returns
    -------
    float32 array of shape (n_texts,), nats
        NaN where a text exceeds the model's context. In a registry of (prompt, response) pairs of shape (2, n_texts):
        responses given their prompts, and alone.
    """
    row = score_row(registry, model, revision=revision, dtype=dtype, device=device)
    if row.log_likelihood_response is None:
        return row.log_likelihood
    return np.stack([row.log_likelihood, row.log_likelihood_response])


def score_row(
    registry: Contents, model: str, *, revision: str | None = None, dtype: str = "auto", device: str = "auto"
) -> Row:
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
    Row
        As `add` would write it, with segments if it can have some.

    Raises
    ------
    ModelError
        If the model cannot be scored.
    """
    source = llreg_extract.resolve(model, revision=revision, trust_remote_code=False)
    dtype, device = llreg_extract.choose(source, dtype=dtype, device=device)
    info, pairs = registry.info, registry.rendering is not None
    identity = Identity(
        **source.identity, weight_dtype=dtype, text_set=info.text_set.id, protocol=info.protocol_id, subset=None
    )
    job = Job(
        source=source,
        identity=identity,
        device=device,
        texts=registry.texts.complete(),
        sequences=sequences_of(np.arange(registry.num_texts), registry.num_texts, pairs=pairs),
        num_texts=registry.num_texts,
        rendering=registry.rendering,
        cuts=registry.cuts,
        cuts_id=info.segments["id"] if info.segments else None,
    )
    return Scoring(job).run(lambda entries: None, Reporter()).row
