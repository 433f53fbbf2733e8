"""Which vector of its rows a view looks at: of pairs also that of the responses alone, or the PMI vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llreg.geometry.kl.noise import noise_variances

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.geometry.view.view import View
    from llreg.store.contents import Contents
    from llreg_schemas import RowRecord


def read_parts(registry: Contents, records: Sequence[RowRecord], view: View) -> list[NDArray[np.float32]]:
    """The log-likelihoods that a view's vector is made of, raw.

    Returns
    -------
    list of float32 arrays of shape (n_models, n_texts), nats
        One for each of the view's `variables`; all texts of the set, NaN where not scored.
    """
    return [registry.values(records, variable=variable) for variable in view.variables]


def seen_values(parts: Sequence[NDArray[np.floating]], view: View, texts: NDArray[np.intp]) -> NDArray[np.float64]:
    """A view's vectors on its texts, from the log-likelihoods that they are made of.

    Parameters
    ----------
    parts : sequence of float arrays of shape (n_models, n_texts), nats
        As `read_parts` gives them.
    view : View
    texts : intp array of shape (n_kept,)
        Indices of the view's texts.

    Returns
    -------
    float64 array of shape (n_models, n_kept), nats

    Notes
    -----
    PMI_i(x, y) = ln p_i(y | x) - ln p_i(y) (arXiv 2603.18593). Both log-likelihoods are clipped at the view's threshold
    before the difference is taken, as both sides of a distance are: it is the log-likelihood of a text that a model
    cannot predict which is of no size to compare.
    """
    clipped = [_clipped(part if len(texts) == part.shape[1] else part[:, texts], view.clip) for part in parts]
    return clipped[0] if len(clipped) == 1 else clipped[0] - clipped[1]


def _clipped(values: NDArray[np.floating], clip: float | None) -> NDArray[np.float64]:
    found = values.astype(np.float64)
    if clip is not None:
        np.maximum(found, clip, out=found)  # NaN stays NaN
    return found


def vector_noise(
    records: Sequence[RowRecord], parts: Sequence[NDArray[np.floating]], view: View
) -> NDArray[np.float64]:
    """Variance of the error of one text's value, by row: that of a difference is the sum of its parts'.

    Parameters
    ----------
    records : sequence of RowRecord
    parts : sequence of float arrays of shape (n_models, n_texts), nats
        As `read_parts` gives them.
    view : View

    Returns
    -------
    float64 array of shape (n_models,), nats**2
        See `llreg.geometry.kl.noise.noise_variances`.
    """
    variances = [
        noise_variances(records, np.count_nonzero(~np.isnan(part), axis=1), variable.removeprefix("log_likelihood"))
        for variable, part in zip(view.variables, parts, strict=True)
    ]
    return np.asarray(np.sum(variances, axis=0))
