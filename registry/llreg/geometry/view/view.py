"""Views: the clip threshold, the texts and the text weights through which rows are seen."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llreg.texts.textset import TextIndex
from llreg_schemas import check, make_view
from llreg_schemas.errors import InputError, InvalidFileError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents

Vector = Literal["conditional", "pmi", "response"]
Estimator = Literal["fine", "text"]
# What a vector is made of: the first less the second where there are two.
_VARIABLES: dict[str, tuple[str, ...]] = {
    "conditional": ("log_likelihood",),
    "pmi": ("log_likelihood", "log_likelihood_response"),
    "response": ("log_likelihood_response",),
}
_NAMES = {"pmi": "PMI vectors", "response": "responses without their prompts"}
CLIP_QUANTILE = 0.02  # over all models and texts, as in Oyama et al. 2025 (arXiv 2502.16173)


@dataclass(frozen=True)
class View:
    """What every distance, coordinate and map is computed through, and records.

    Rows are stored raw. Two results compare only if they share the view, so it has an id: the hash of its
    document, which keeps what is set and leaves out what is not.

    Attributes
    ----------
    clip : float or None
        Log-likelihoods below are raised to it, nats per text; None: left as they are. Of PMI vectors, both
        log-likelihoods, before their difference is taken.
    only, without : tuple of str
        Subsets of the text set to keep (all if empty), and to leave out.
    drop : tuple of int
        Indices of further texts to leave out.
    weights : mapping of str to float, tuple of float, or None
        Weight of each subset (1 where not named), or of each text of the set; None: all texts count the same.
    vector : {"conditional", "pmi", "response"}
        In a registry of (prompt, response) pairs: ln p(response | prompt); that less ln p(response), the PMI; or
        ln p(response) alone. Registries of texts have "conditional" only, which is then just the log-likelihood.
    estimator : {"fine", "text"}
        What a KL is estimated from: the segments of the texts, of two rows that both have them, or ("text", and wherever a row
        has none) the variance over texts of Oyama et al. 2025 (arXiv 2502.16173). The clip threshold is for the latter.
    """

    clip: float | None = None
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    drop: tuple[int, ...] = ()
    weights: Mapping[str, float] | tuple[float, ...] | None = None
    vector: Vector = "conditional"
    estimator: Estimator = "text"

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> View:
        """The view of a document, as registry.json and map.json hold it."""
        weights = document.get("weights")
        return cls(
            clip=document["clip"],
            only=tuple(document.get("only", ())),
            without=tuple(document.get("without", ())),
            drop=tuple(document.get("drop", ())),
            weights=tuple(weights) if isinstance(weights, Sequence) else weights,
            vector=document.get("vector", "conditional"),
            estimator=document.get("estimator", "text"),
        )

    def to_json(self) -> dict[str, Any]:
        """The document, with the view's id.

        Raises
        ------
        InputError
            If the clip threshold is not a finite number of at most 0.
        """
        weights = self.weights
        rules = {
            "vector": "" if self.vector == "conditional" else self.vector,
            "estimator": "" if self.estimator == "text" else self.estimator,
            "only": sorted(set(self.only)),
            "without": sorted(set(self.without)),
            "drop": sorted(set(self.drop)),
            "weights": dict(weights) if isinstance(weights, Mapping) else list(weights or ()),
        }
        return make_view(self.clip, **{name: value for name, value in rules.items() if value})

    @property
    def id(self) -> str:
        """sha256 of the document."""
        return str(self.to_json()["id"])

    def describe(self) -> str:
        """The view in words, for people."""
        parts = [] if self.vector == "conditional" else [_NAMES[self.vector]]
        clip = "no clipping" if self.clip is None else f"clipped at {self.clip:g} nats"
        parts += [clip] if self.estimator == "text" else ["segments", f"whole texts: {clip}"]
        parts += [f"only {', '.join(self.only)}"] if self.only else []
        parts += [f"without {', '.join(self.without)}"] if self.without else []
        parts += [f"{len(self.drop)} texts dropped"] if self.drop else []
        parts += ["weighted texts"] if self.weights is not None else []
        return ", ".join(parts)

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables of a row that the vector is made of: one, or two for their difference."""
        return _VARIABLES[self.vector]

    def texts(self, index: TextIndex) -> NDArray[np.intp]:
        """Indices of the texts that the view keeps, intp array of shape (n_kept,).

        Raises
        ------
        InputError
            If it names a subset, a text or a vector that the text set does not have, or keeps fewer than two texts.
        """
        if self.vector != "conditional" and not index.has_pairs:
            raise InputError(
                f"a view of {_NAMES[self.vector]} needs a registry of (prompt, response) pairs; {index.info.name} holds texts"
            )
        weighted = self.weights if isinstance(self.weights, Mapping) else ()
        unknown = sorted({*self.only, *self.without, *weighted} - set(index.subset))
        if unknown:
            raise InputError(f"no subset {unknown[0]!r} in this text set; it has: {', '.join(index.info.subsets)}")
        outside = [text for text in self.drop if not 0 <= text < len(index)]
        if outside:
            raise InputError(f"no text {outside[0]} in this text set; it has 0 to {len(index) - 1}")
        keep = np.ones(len(index), dtype=bool)
        subsets = np.asarray(index.subset, dtype=object)
        if self.only:
            keep &= np.isin(subsets, self.only)
        keep &= ~np.isin(subsets, self.without)
        keep[list(self.drop)] = False
        texts = np.flatnonzero(keep)
        if len(texts) < 2:
            raise InputError(
                f"the view ({self.describe()}) keeps {len(texts)} of {len(index)} texts; a distance needs two"
            )
        return texts

    def text_weights(self, index: TextIndex) -> NDArray[np.float64] | None:
        """Weights of the kept texts, float64 array of shape (n_kept,); None if all are equal.

        Raises
        ------
        InputError
            If a weight is not a finite number above 0, or their number is not that of the texts.
        """
        if self.weights is None:
            return None
        if isinstance(self.weights, Mapping):
            weights = np.array([self.weights.get(subset, 1.0) for subset in index.subset])
        else:
            weights = np.asarray(self.weights, dtype=np.float64)
        if weights.shape != (len(index),):
            raise InputError(f"the view's weights: expected {len(index)}, one a text; got {len(weights)}")
        if not (np.isfinite(weights) & (weights > 0)).all():
            raise InputError("the view's weights: expected finite numbers above 0; leave texts out with `drop`")
        return np.asarray(weights[self.texts(index)])


AnyView = View | Mapping[str, Any] | Path | str  # a view, its document, a file that holds one, or "default"


def clip_at(log_likelihood: NDArray[np.floating], quantile: float = CLIP_QUANTILE) -> float:
    """The clip threshold at a quantile over all entries.

    Parameters
    ----------
    log_likelihood : float array of shape (n_models, n_texts), nats
        Raw values; NaN is left out.
    quantile : float
        Between 0 and 1; linear interpolation, as `numpy.quantile`.

    Returns
    -------
    float
        Nats per text.

    Raises
    ------
    InputError
        If the quantile is out of range, or there is no value.

    Notes
    -----
    Oyama et al. 2025 (arXiv 2502.16173) clip all values at their 2 % quantile before anything else. The
    threshold depends on the models, so a registry freezes it: distances must not move when rows come.
    """
    if not 0 <= quantile <= 1:
        raise InputError(f"quantile: expected a number from 0 to 1; got {quantile}")
    values = np.asarray(log_likelihood)
    values = values[~np.isnan(values)]
    if not values.size:
        raise InputError("a clip quantile needs rows; add some first: llreg add MODEL")
    return min(float(np.quantile(values.astype(np.float64), quantile)), 0.0)


def clip_values(log_likelihood: NDArray[np.floating], clip: float | None) -> NDArray[np.float64]:
    """Log-likelihoods in float64, those below the threshold raised to it; NaN stays NaN."""
    if clip is None:
        return np.asarray(log_likelihood, dtype=np.float64)
    return np.asarray(np.maximum(log_likelihood, clip, dtype=np.float64))


def tail_texts(log_likelihood: NDArray[np.floating], share: float) -> list[int]:
    """The texts that carry most of all pairwise distances: the given share of their number.

    Parameters
    ----------
    log_likelihood : float array of shape (n_models, n_texts), nats
        Values after clipping.
    share : float
        Of the texts, at least 0 and below 1; rounded up to whole texts.

    Returns
    -------
    list of int
        Columns, ascending.

    Notes
    -----
    A text's part in the sum of all squared distances is 2 K sum_i q_is**2 with the double-centred q: the length-squared
    score of Oyama et al. 2025b (arXiv 2505.15428). Kishino et al. (arXiv 2505.15353) drop the top 3 % by the largest step
    between checkpoints instead, which needs checkpoints.
    """
    if not 0 <= share < 1:
        raise InputError(f"tail share: expected a number from 0 to below 1; got {share}")
    score = np.nansum(double_centred(np.asarray(log_likelihood, dtype=np.float64)) ** 2, axis=0)
    count = math.ceil(share * len(score))
    return sorted(int(text) for text in np.argsort(-score, kind="stable")[:count])


def double_centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coordinates q: rows minus their means, then minus the mean row; NaN stays NaN.

    Parameters
    ----------
    values : float64 array of shape (n_models, n_texts), nats

    Returns
    -------
    float64 array of shape (n_models, n_texts), nats

    Notes
    -----
    Oyama et al. 2025 (arXiv 2502.16173), double centring: |q_i - q_j|**2 = 2 N KL(i, j).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a text that no row has is NaN, and no news
        rows = values - np.nanmean(values, axis=1, keepdims=True)
        return np.asarray(rows - np.nanmean(rows, axis=0, keepdims=True))


def view_of(registry: Contents, view: AnyView | None = "default") -> View:
    """The view that is meant: a registry's own for "default" or None, else as `read_view`.

    Parameters
    ----------
    registry : Contents
    view : View, mapping, path, "default" or None

    Raises
    ------
    InputError
        If there is no such file, or it holds no view.
    """
    return View.from_json(registry.view_document) if view is None or view == "default" else read_view(view)


def read_view(source: View | Mapping[str, Any] | Path | str) -> View:
    """A view from itself, its document, or a JSON file that holds it (or a map, which names its view).

    Raises
    ------
    InputError
        If there is no such file, or it holds no view.
    """
    if isinstance(source, View):
        return source
    name = "the view" if isinstance(source, Mapping) else str(source)
    document: Any = source
    if not isinstance(source, Mapping):
        path = Path(source)
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"{path}: expected a JSON file with a view; make one with: llreg view -o {path}"
            ) from error
        if not isinstance(document, Mapping):
            raise InputError(f"{path}: expected a JSON object with a view; make one with: llreg view -o {path}")
    try:
        document = check("view", document.get("view", document), name)
    except InvalidFileError as error:
        raise InputError(f"{name}: no view ({error.problem}); make one with: llreg view -o FILE") from error
    view = View.from_json(document)
    if document["id"] != view.id:
        raise InputError(f"{name}: the view's id is not the hash of its rules; it was edited by hand")
    return view
