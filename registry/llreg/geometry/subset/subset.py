"""Samples of the text set that tell models apart: drawn by what the rows show, and what they cost in accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from llreg.geometry.kl.rows import full_rows
from llreg.geometry.subset.curve import error_curve
from llreg.geometry.view.view import View, view_of
from llreg.store.contents import Contents
from llreg.store.subsets import DRAWS_A_TEXT, check_subset, draw_subset
from llreg.texts.sampling import FLOOR, METHODS, Method, text_chances, text_scores
from llreg_schemas import check, hash_json
from llreg_schemas.errors import InputError, InvalidFileError
from llreg_schemas.records import FORMAT_VERSION, SUBSET_FORMAT

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_SEED = (1 << 53) - 1  # the largest integer that all JSON readers keep


def make_subset(
    registry: Contents,
    size: int | None = None,
    *,
    draws: int | None = None,
    method: Method = "ls",
    floor: float | None = None,
    seed: int = 0,
    view: View | None = None,
) -> dict[str, Any]:
    """Draw a sample of the texts that new models may be scored on, at a fraction of the cost.

    Parameters
    ----------
    registry : Contents
    size : int
        Texts of the sample; drawn without replacement.
    draws : int
        Instead of `size`: draws with replacement, as P2 (arXiv 2505.15428) makes them.
    method : {"ls", "kl", "uniform"}
        What a text's chance is proportional to; see `llreg.texts.sampling.text_scores`.
    floor : float, optional
        Share of the draws that is uniform whatever the method, 0.5 if not given; 0 is P2's rule. See `text_chances`.
    seed : int
        Another seed draws another sample.
    view : View, optional
        Through which the rows are seen, and whose texts are drawn from; by default the registry's.

    Returns
    -------
    dict
        The subset file's document (``subset.schema.json``).

    Raises
    ------
    InputError
        If the numbers do not fit, or the method needs rows that are not there.

    Notes
    -----
    Without replacement every text drawn is new, and the more are drawn the less is left to chance: at 1,000 of 3,610
    texts the error is a fifth smaller than that of as many different texts drawn with replacement. Chances are the same.
    """
    if (size is None) == (draws is None):
        raise InputError("give the number of texts (size), or of draws with replacement (draws); not both")
    if method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}; got {method!r}")
    if not 0 <= seed <= _MAX_SEED:
        raise InputError(f"seed: expected at least 0, and at most {_MAX_SEED}; got {seed}")
    wanted = size if size is not None else draws
    if draws is not None and draws > DRAWS_A_TEXT * registry.num_texts:
        most = DRAWS_A_TEXT * registry.num_texts
        raise InputError(f"draws: expected at most {most:,}, {DRAWS_A_TEXT} a text of the set; got {draws:,}")
    seen = view_of(registry, view)
    share = 1.0 if method == "uniform" else FLOOR if floor is None else floor
    chances, models = _chances(registry, seen, method, share)
    rules = {
        "format": SUBSET_FORMAT,
        "format_version": FORMAT_VERSION,
        "text_set": registry.info.text_set.id,
        "num_texts": registry.num_texts,
        "method": method,
        "floor": float(share),
        "replacement": draws is not None,
        "seed": int(seed),
        "draws": int(wanted or 0),
        "chances": chances.tolist(),
        "view": seen.to_json(),
        "registry": registry.name,
        "version": registry.version,
        "models": models,
    }
    counts = draw_subset(rules)
    texts = counts.nonzero()[0]
    document = {**rules, "texts": texts.tolist(), "counts": counts[texts].tolist()}
    return _usable({**document, "id": hash_json(document)}, registry)


def _usable(document: dict[str, Any], registry: Contents) -> dict[str, Any]:
    """Return the document if `llreg add --subset` takes it, by the checks that it makes."""
    try:
        return check_subset(check("subset", document, "subset"), registry.info, "subset")
    except InvalidFileError as error:
        raise InputError(f"these options make no subset that rows can be scored on: {error}") from error


def _chances(registry: Contents, view: View, method: Method, floor: float) -> tuple[NDArray[np.int64], int]:
    """Chances of all texts of the set, 0 for those that the view leaves out, and the rows they are computed from."""
    texts = view.texts(registry.text_index)
    weights = view.text_weights(registry.text_index)
    values = np.empty((0, len(texts)))
    if method != "uniform":
        values = full_rows(registry, view).values
        if len(values) < 2:
            raise InputError(
                f"method {method} needs two rows scored on all texts, to know which texts of the view tell models "
                f"apart; there are {len(values)}: add rows, or draw with method uniform"
            )
    chances = np.zeros(registry.num_texts, np.int64)
    chances[texts] = text_chances(text_scores(values, method), floor=floor, weights=weights)
    return chances, len(values)


def describe_subset(registry: Contents, document: Mapping[str, Any]) -> dict[str, Any]:
    """What a subset costs.

    Returns
    -------
    dict
        Keys id, method, seed, draws, replacement, texts, text_share, bytes, byte_share.
    """
    sizes = registry.text_index.bytes_per_text
    size = float(sizes[np.asarray(document["texts"])].sum())
    return {
        **{name: document[name] for name in ("id", "method", "floor", "seed", "draws", "replacement", "models")},
        "texts": len(document["texts"]),
        "text_share": len(document["texts"]) / document["num_texts"],
        "bytes": int(size),
        "byte_share": size / float(sizes.sum()),
    }


def subset_errors(registry: Contents, document: Mapping[str, Any], *, curve: bool = False) -> list[dict[str, Any]]:
    """How far distances of a subset's rows are off, measured on the rows that are there.

    Parameters
    ----------
    registry : Contents
    document : mapping
    curve : bool
        For all methods, and sizes from 2 % to all of the texts; otherwise for this subset's only.

    Returns
    -------
    list of dict
        As `llreg.geometry.subset.curve.error_curve` gives them; empty where there are no two rows to measure on.

    Raises
    ------
    InputError
        If a curve is asked for, and there are no two different rows of all texts.
    """
    rows = full_rows(registry, View.from_json(document["view"]))
    common = {"floor": document["floor"], "replacement": document["replacement"], "seed": document["seed"]}
    try:
        if curve:
            floor = FLOOR if document["method"] == "uniform" else document["floor"]
            return error_curve(rows, **{**common, "floor": floor})
        return error_curve(rows, [document["draws"]], methods=[document["method"]], **common)
    except InputError:
        if curve:
            raise
        return []
