"""Whether two scorings of one model agree: what arithmetic explains of their difference, and what only other weights do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.special import chdtri, fdtri, stdtrit

from llreg.geometry.kl.noise import text_variances
from llreg_schemas.records import RESOLUTION

if TYPE_CHECKING:
    from numpy.typing import NDArray

Outcome = Literal["match", "mismatch", "inconclusive"]
Cause = Literal["", "unavailable", "files", "tokens", "text order", "coverage", "weights", "segments", "arithmetic"]

# Thresholds: from where on a row is called a mismatch, and up to where a match.

# How often the right row is called a mismatch, and how often it is not called a match, where arithmetic errs as assumed.
ERROR_RATE, OPEN_RATE = 0.001, 0.1
# Errors of the arithmetic are measured on the model from so many texts on; with fewer they are taken from the table of
# llreg.geometry.kl.noise.
MEASURED_TEXTS = 8
# Measured: other kernels err by so many times more than those here, and it is a match (measured in bfloat16, eager against
# fused attention and one matrix library against another: up to 1.3); by so many times no kernel does, and it is a mismatch.
MATCH_FACTOR, MISMATCH_FACTOR = 1.3, 2.0
# By the table: so many times its error nothing explains.
MISMATCH_TABLE_FACTOR = 10.0
# The error of an average of squares is larger than of normal errors: those of single texts have an excess kurtosis of about
# 2 (measured on small models in bfloat16: 0.4 to 4), which halves the degrees of freedom.
HEAVY_TAILS = 2.0
# A mismatch is one of text order if this share of the first so many values stand elsewhere in the row, within so many errors.
DISPLACED_SHARE, DISPLACED_TEXTS, DISPLACED_TOLERANCE = 0.5, 64, 4.0
# Tokens that may be the model's first choice in one of two scorings only: a few, and this share of all. Two that are nearly
# as likely change places (measured on small models in bfloat16, against float32: 1 in 600).
FLIPPED_TOKENS, FLIPPED_SHARE = 4, 0.01
# Texts up to which more of them are advised.
ADVISED_TEXTS = 256


@dataclass(frozen=True)
class Comparison:
    """Log-likelihoods of a row beside the same scored again; all figures in nats per text.

    Attributes
    ----------
    outcome : {"match", "mismatch", "inconclusive"}
        Of these values alone.
    repeats : bool
        Whether they should be equal, since both are of one kind of machine with the same libraries.
    rms_difference, max_difference : float
        Root mean square and largest absolute difference, scored again less stored.
    mean_difference, mean_error : float
        Mean difference, and its standard error; NaN for a single text.
    distance : float
        What is judged: `rms_difference`; or the root mean square difference between the row and the model in float32
        arithmetic, where that was computed.
    explained : float
        What the arithmetic explains of `distance`, root mean square.
    allowed, beyond : float
        `distance` up to which it is a match, and from which only other weights explain it.
    measured : bool
        Whether `explained` was measured on this model and these texts; else it is a table's, by dtype and tokens.
    """

    outcome: Outcome
    repeats: bool
    rms_difference: float
    max_difference: float
    mean_difference: float
    mean_error: float
    distance: float
    explained: float
    allowed: float
    beyond: float
    measured: bool

    @property
    def unseen(self) -> float:
        """Weights that move a text by less than this, root mean square, would have looked the same; nats."""
        return float(np.sqrt(max(self.allowed**2 - self.explained**2, 0.0)))


def compare(
    stored: NDArray[np.float64],
    rescored: NDArray[np.float64],
    num_tokens: NDArray[np.integer],
    dtype: str,
    *,
    exact: NDArray[np.float64] | None = None,
    on_cpu: bool = True,
    repeats: bool = False,
) -> Comparison:
    """Judge the log-likelihoods of a row by the same texts scored again in its dtype.

    Parameters
    ----------
    stored, rescored : float64 arrays of shape (n_texts,), nats
        As the row has them, and as they are here.
    num_tokens : int array of shape (n_texts,)
    dtype : str
        Of the weights, in both.
    exact : float64 array of shape (n_texts,), nats, optional
        The model in float32 arithmetic: `rescored` less this is what the arithmetic of the dtype does to this model.
    on_cpu : bool
        Whether the row was made on a CPU. On a GPU float32 may have been multiplied in TF32, which has float16's digits.
    repeats : bool
        Whether the row says that it was made on this kind of CPU with these libraries: then llreg repeats itself.

    Notes
    -----
    Errors of the right row are taken as independent between texts, of mean square s**2: by `exact`, or by the table of
    `llreg.geometry.kl.noise`. Their own mean square over n texts then is at most q s**2, with q the quantile of F(m, m)
    (`exact`: s was measured on as many texts) or of chi2(m) / m (table), and m = n / 2 for heavy tails. A match is up to
    1.3**2 q s**2 (other kernels; table: q s**2) with the quantile of 1 - `OPEN_RATE`; a mismatch from 2**2 q s**2 on
    (table: 10**2 q s**2) with that of 1 - `ERROR_RATE`.

    A bias tells, too, where s is measured: errors of mean square s**2 lower log-likelihoods by about s**2 / 2. A mean
    difference beyond s**2, by more than Student's t allows, makes a match inconclusive, and what is inconclusive a mismatch.
    """
    difference, n = rescored - stored, len(stored)
    rms, mean = _rms(difference), float(difference.mean())
    mean_error = float(difference.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan
    float32_error = _rms(error_of(stored, num_tokens, "float32"))
    if exact is None:
        distance, explained = rms, _rms(error_of(stored, num_tokens, dtype))
        may_be_tf32 = dtype == "float32" and not on_cpu
        tf32_error = _rms(error_of(stored, num_tokens, "float16")) if may_be_tf32 else 0.0
        allowed = _by_table(n, OPEN_RATE) * explained
        beyond = _by_table(n, ERROR_RATE) * max(MISMATCH_TABLE_FACTOR * explained, MISMATCH_FACTOR * tf32_error)
        is_biased = False
    else:
        distance, explained = _rms(stored - exact), max(_rms(rescored - exact), float32_error)
        allowed = _as_measured(n, OPEN_RATE) * MATCH_FACTOR * explained
        beyond = _as_measured(n, ERROR_RATE) * MISMATCH_FACTOR * explained
        is_biased = n > 1 and abs(mean) > explained**2 - float(stdtrit(n - 1, ERROR_RATE / 2)) * mean_error
    outcome: Outcome = "match"
    if distance > beyond or (is_biased and distance > allowed):
        outcome = "mismatch"
    elif is_biased or distance > allowed or (repeats and rms > _by_table(n, OPEN_RATE) * float32_error):
        outcome = "inconclusive"
    return Comparison(
        outcome=outcome,
        repeats=repeats,
        rms_difference=rms,
        max_difference=float(np.abs(difference).max()),
        mean_difference=mean,
        mean_error=mean_error,
        distance=distance,
        explained=explained,
        allowed=allowed,
        beyond=beyond,
        measured=exact is not None,
    )


def _by_table(n: int, rate: float) -> float:
    """Exceeded at this rate by the root mean square of n errors, over that which it should have."""
    m = n / HEAVY_TAILS
    return float(np.sqrt(chdtri(m, rate) / m))


def _as_measured(n: int, rate: float) -> float:
    """The same over the root mean square of n other errors of the same kind."""
    m = n / HEAVY_TAILS
    return float(np.sqrt(fdtri(m, m, 1 - rate)))


def error_of(stored: NDArray[np.float64], num_tokens: NDArray[np.integer], dtype: str) -> NDArray[np.float64]:
    """Root mean square difference of two runs in a dtype, for each text: float64 array of shape (n_texts,), nats."""
    # Both are rounded to float32 when they are kept.
    rounding = np.spacing(np.abs(stored).astype(np.float32)).astype(np.float64) ** 2 / 12
    return np.asarray(np.sqrt(2 * (text_variances([dtype], num_tokens.astype(np.float64)) + rounding)))


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt((values**2).mean()))


def token_difference(
    texts: Sequence[int], stored: NDArray[np.integer], rescored: NDArray[np.integer], *, place: str = "before"
) -> str:
    """How numbers of tokens differ, in words; "" if they do not, or the row does not tell them.

    Parameters
    ----------
    texts : sequence of int
    stored, rescored : int arrays of shape (n_texts,)
        Tokens that the row says were scored, and those scored here.
    place : {"before", "behind"}
        Where a token may be that every text has one of.
    """
    differing = np.flatnonzero(stored != rescored)
    if not len(differing) or not stored.any():
        return ""
    first, steps = int(differing[0]), np.unique((rescored - stored)[differing])
    counts = f"text {texts[first]} has {stored[first]:,} tokens in the row and {rescored[first]:,} here"
    if len(differing) == len(stored) and len(steps) == 1 and abs(int(steps[0])) == 1:
        return f"a special token {place} each text is scored {'in the row' if steps[0] < 0 else 'here'} only ({counts})"
    return f"{len(differing):,} of {len(stored):,} texts have other numbers of tokens ({counts})"


def segment_difference(
    stored: Sequence[NDArray[np.integer]], rescored: Sequence[NDArray[np.integer]], beyond: float
) -> str:
    """How the segments of texts are further apart than arithmetic explains, in words; "" if they are not.

    Parameters
    ----------
    stored, rescored : sequences of int arrays of shape (n_segments,), units of 1/256 nat
        Of each text.
    beyond : float
        `Comparison.beyond` of the same texts, nats.

    Notes
    -----
    Errors of a text's segments are independent, and their squares add up to that of the text's error: so the distance of two
    texts by their segments is what that of their log-likelihoods is. Here it is of the row and of this scoring, each up to
    `beyond` off, and each rounded.
    """
    squares = [float(((a - b).astype(np.float64) ** 2).sum()) for a, b in zip(stored, rescored, strict=True)]
    distance = RESOLUTION * np.sqrt(np.mean(squares))
    rounding = RESOLUTION * np.sqrt(np.mean([len(segments) for segments in stored]) / 3)
    if distance <= 2 * (beyond + rounding):
        return ""
    return f"they are {distance:.3g} nats a text off, root mean square, and {2 * (beyond + rounding):.2g} is the most that is arithmetic"


def first_choice_difference(stored: NDArray[np.integer], rescored: NDArray[np.integer], num_tokens: int) -> str:
    """How numbers of tokens that were the model's first choice differ by more than arithmetic explains, in words, or "".

    Parameters
    ----------
    stored, rescored : int arrays of shape (n_texts,)
    num_tokens : int
        Tokens of these texts.
    """
    num_other = int(np.abs(stored.astype(np.int64) - rescored).sum())
    if num_other <= FLIPPED_TOKENS + FLIPPED_SHARE * num_tokens:
        return ""
    return f"{int(stored.sum()):,} of {num_tokens:,} tokens are the model's first choice in the row and {int(rescored.sum()):,} here"


@dataclass(frozen=True)
class Agreement:
    """A row against its model, scored again on a few texts.

    Attributes
    ----------
    row_id, model : str
    outcome : {"match", "mismatch", "inconclusive"}
    cause : str
        What it comes from: "" for a match, else "unavailable" (nothing could be scored), "files" (not those of the row),
        "tokens" (another tokenizer), "text order", "coverage" (texts that one of the two cannot score), "weights", "segments"
        (the texts' values are right, and those of their segments or the numbers of correct tokens are not), or
        "arithmetic" (it stays open which of the two).
    why : str
        What it means, in one sentence.
    texts : tuple of int
        Which texts.
    seed : int or None
        Draws these texts again; None where they were drawn otherwise.
    dtype, device : str
        In which, and where they were scored now; "" if they were not.
    row_device : str
        Type of device that the row says it was made on.
    comparison : Comparison or None
        The figures; None where nothing was compared.
    """

    row_id: str
    model: str
    outcome: Outcome
    cause: Cause
    why: str
    texts: tuple[int, ...] = ()
    seed: int | None = None
    dtype: str = ""
    device: str = ""
    row_device: str = ""
    comparison: Comparison | None = None

    def to_json(self) -> dict[str, Any]:
        """It as JSON; the figures under ``comparison``."""
        figures = self.comparison and {**asdict(self.comparison), "unseen": self.comparison.unseen}
        return {**vars(self), "texts": list(self.texts), "comparison": figures}

    @property
    def figures(self) -> str:
        """The figures in words; "" where nothing was compared."""
        comparison = self.comparison
        if comparison is None:
            return ""
        texts = "1 text" if len(self.texts) == 1 else f"{len(self.texts):,} texts"
        mean_error = "" if np.isnan(comparison.mean_error) else f" ± {comparison.mean_error:.2g}"
        words = (
            f"{texts} scored again in {self.dtype} on {self.device} (the row: {self.row_device}): root mean square difference "
            f"{comparison.rms_difference:.3g} nats, largest {comparison.max_difference:.3g}, mean "
            f"{comparison.mean_difference:.2g}{mean_error}; "
        )
        if comparison.measured:
            words += (
                f"from float32 arithmetic the row is {comparison.distance:.3g} off, and this machine "
                f"{comparison.explained:.3g}; "
            )
        return (
            f"{words}up to {comparison.allowed:.3g} is arithmetic, from {comparison.beyond:.3g} on it is other weights"
        )
