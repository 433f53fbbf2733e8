"""Score a few texts of a row's model afresh: the only check that nobody can forge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

import llreg_extract
from llreg.geometry.noise import text_variances
from llreg.subsets import read_subset
from llreg_schemas import sha256_text
from llreg_schemas.errors import InputError, ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.hub.verdict import Level, Verdict
    from llreg.registry import Registry
    from llreg_extract import Scores, Source
    from llreg_schemas import Identity, RowRecord

Outcome = Literal["match", "mismatch", "inconclusive", "not recomputable"]

# What a difference between two runs says, in nats a text. Both runs have the error of their dtype (llreg.geometry.noise: 0.0002
# in float32, 0.11 in float16, 0.9 in bfloat16, on texts of 300 tokens); three standard errors of the root mean square are
# allowed for a match.
_TIMES = 10.0  # so many times that error no hardware, kernel or library version explains: these were other weights
# ... nor anything from here on, in any dtype: rounding the weights themselves to bfloat16 moves a text by 0.31 nats. Between
# the two it stays open: float32 on a GPU that multiplies in TF32, for one.
_ROUNDED = 0.3
_ROUNDED_TOKENS = 300.0
_MOST_ROWS = 5  # of a pull request: each is a model to download and load
_MOST_PARAMETERS = 16e9  # 32 GB of bfloat16: what a stranger's row may make this machine download


@dataclass(frozen=True)
class Agreement:
    """A row against its model, scored again on a few texts.

    Attributes
    ----------
    outcome : {"match", "mismatch", "inconclusive", "not recomputable"}
    why : str
        One sentence, with the figures.
    texts : tuple of int
        Which texts.
    rms_difference, max_difference : float
        Of their log-likelihoods, nats; NaN where nothing was compared.
    expected : float
        Root mean square that the arithmetic of both runs explains, nats.
    device : str
        Where they were scored now.
    """

    outcome: Outcome
    why: str
    texts: tuple[int, ...] = ()
    rms_difference: float = np.nan
    max_difference: float = np.nan
    expected: float = np.nan
    device: str = ""


def recompute(
    registry: Registry, record: RowRecord, values: NDArray[np.floating], k: int, seed: str, *, device: str = "auto"
) -> Agreement:
    """Score some texts with a row's model again, and compare.

    Parameters
    ----------
    registry : Registry
        Whose texts they are.
    record : RowRecord
        Only rows of models on the Hub can be recomputed, at the commit that the row names.
    values : float array of shape (n_texts,), nats
        The row's log-likelihoods, as they are stored.
    k : int
        How many texts, drawn from those that the row has a value for.
    seed : str
        Which texts: it should not be the contributor's to choose.
    device : str
        As in `llreg.adding.Options`.

    Returns
    -------
    Agreement
        "inconclusive" also where the model cannot be had or scored here; the sentence says why.

    Raises
    ------
    InputError
        If `k` is not positive.
    MissingExtraError
        If torch or transformers is not installed.
    """
    if k < 1:
        raise InputError(f"recompute: expected at least 1 text; got {k}")
    refused = _not_recomputable(record.identity)
    if refused:
        return Agreement("not recomputable", refused)
    texts = draw_texts(registry, record, values, k, seed)
    try:
        source = _resolve(record.identity)
        other = _difference(record.identity, source)
        if other:
            return Agreement("mismatch", other, tuple(texts))
        dtype, where = llreg_extract.choose(source, dtype=record.identity.weight_dtype, device=device)
        loaded = llreg_extract.load(source, dtype=dtype, device=where, trust_remote_code=False)
        scores = llreg_extract.score(loaded, registry.texts.complete(texts))
    except (ModelError, InputError) as error:
        return Agreement("inconclusive", f"it cannot be scored here: {error}", tuple(texts))
    return _compare(record.identity, texts, np.asarray(values, dtype=np.float64)[texts], scores, where)


def _not_recomputable(identity: Identity) -> str:
    if identity.source != "hub":
        return f"its model was not on the Hub (source {identity.source!r}): only who has the files can score it again"
    if identity.adapter or identity.subfolder:
        return "llreg does not load adapters and subfolders yet"
    return ""


def draw_texts(registry: Registry, record: RowRecord, values: NDArray[np.floating], k: int, seed: str) -> list[int]:
    """Texts that are copied here and that the row has a value for, at random by the seed; all of them if they are few.

    Raises
    ------
    InputError
        If there is none.
    """
    there = ~np.isnan(np.asarray(values, dtype=np.float64))
    there &= np.array([text is not None for text in registry.texts.texts])
    if record.identity.subset:
        inside = np.zeros(registry.num_texts, dtype=bool)
        inside[read_subset(registry, record.identity.subset)["texts"]] = True
        there &= inside
    candidates = np.flatnonzero(there)
    if not len(candidates):
        raise InputError(f"{record.row_id} has a value for none of the texts that are copied in this registry")
    rng = np.random.default_rng(int(sha256_text(seed), 16))
    return sorted(int(text) for text in rng.choice(candidates, min(k, len(candidates)), replace=False))


def _resolve(identity: Identity) -> Source:
    """The model on the Hub at the row's commit; not one so large that a stranger's row fills this machine's disk."""
    model = f"{identity.model}/{identity.file}" if identity.file else identity.model
    source = llreg_extract.resolve(model, revision=identity.revision, trust_remote_code=False)
    size = source.declared.get("num_parameters")
    if size is not None and size > _MOST_PARAMETERS:
        raise InputError(
            f"{identity.model} has {size / 1e9:,.0f} billion parameters; models of up to {_MOST_PARAMETERS / 1e9:,.0f} are scored"
        )
    return source


def _difference(identity: Identity, source: Source) -> str:
    """What the Hub has otherwise than the row's identity says; "" if nothing."""
    for what, said, there in (
        ("commit", identity.revision, source.revision),
        ("file", identity.file, source.file),
        ("quantisation", identity.quantization, source.quantization),
    ):
        if said != there:
            return f"the row says {what} {said or 'none'}, and the Hub has {there or 'none'}"
    return ""


def _compare(
    identity: Identity, texts: list[int], values: NDArray[np.float64], scores: Scores, device: str
) -> Agreement:
    found, tokens = scores.log_likelihood.astype(np.float64), scores.num_tokens.astype(np.float64)
    absent = np.isnan(found)
    if absent.any():
        why = f"the model gives no value for text {texts[int(absent.argmax())]} here, and the row has one"
        return Agreement("inconclusive", why, tuple(texts), device=device)
    differences = np.abs(found - values)
    rms = float(np.sqrt((differences**2).mean()))
    # Two runs, and the rounding of both to float32 when they are kept.
    noise = 2 * text_variances([identity.weight_dtype], tokens)
    noise += 2 * np.spacing(np.abs(values).astype(np.float32)).astype(np.float64) ** 2 / 12
    expected = float(np.sqrt(noise.mean()))
    match = expected * float(np.sqrt(1 + 3 * np.sqrt(2 / len(texts))))
    other = max(_TIMES * expected, _ROUNDED * float(np.sqrt(tokens.mean() / _ROUNDED_TOKENS)))
    outcome: Outcome = "match" if rms <= match else "mismatch" if rms > other else "inconclusive"
    figures = (
        f"{len(texts):,} texts scored again in {identity.weight_dtype} on {device}: root mean square difference {rms:.4g} "
        f"nats, largest {differences.max():.4g}; up to {match:.4g} is arithmetic, beyond {other:.4g} are other weights"
    )
    return Agreement(outcome, figures, tuple(texts), rms, float(differences.max()), expected, device)


_LEVELS: dict[str, Level] = {
    "match": "note",
    "mismatch": "refused",
    "inconclusive": "attention",
    "not recomputable": "attention",
}


def recompute_some(verdict: Verdict, registry: Registry, records: Sequence[RowRecord], k: int) -> None:
    """Recompute rows of a pull request, at random by its commit, and add what was found to its verdict.

    Digest and commit are the contributor's, but with the values they follow from each other: who wants other texts must
    change the values, or make commits until the draw misses what was forged, which a few changed texts are not worth.

    Parameters
    ----------
    verdict : Verdict
        With what was measured of each row, in the order of `records`.
    registry : Registry
        Where the rows are.
    records : sequence of RowRecord
    k : int
        Texts of each row.
    """
    rng = np.random.default_rng(int(sha256_text(verdict.head), 16))
    for at in sorted(rng.choice(len(records), min(_MOST_ROWS, len(records)), replace=False).tolist()):
        record = records[at]
        found = recompute(registry, record, registry.values([record])[0], k, f"{record.digest} {verdict.head}")
        verdict.rows[at] = replace(verdict.rows[at], recomputed=found)
        verdict.find(_LEVELS[found.outcome], verdict.rows[at].file, f"recomputed: {found.outcome}; {found.why}")
    if len(records) > _MOST_ROWS:
        verdict.find("note", "", f"recomputed {_MOST_ROWS} of {len(records):,} rows, drawn at random")
