"""Which arrays a row has, of what type, and what they are called for people."""

from __future__ import annotations

from typing import Any, Literal

from llreg_schemas.records import RESOLUTION

# Log-likelihoods of the texts and the tokens they were summed over; in a registry of (prompt, response) pairs those of
# the response given its prompt, and then those of the response alone.
TEXT_VARIABLES = ("log_likelihood", "num_tokens")
PAIR_VARIABLES = (*TEXT_VARIABLES, "log_likelihood_response", "num_tokens_response")
# What fine rows have besides, in their files.
CORRECT_VARIABLES = ("num_correct", "num_correct_response")
SEGMENT_VARIABLES = ("segment_log_likelihood", "segment_log_likelihood_response")
# What the store has in place of the segments, see llreg.store.fine.
FINE_VARIABLES = ("fine_coordinate", "fine_coordinate_response")

UNSCORED = -(2**31)  # a segment of a text that was not scored
UNKNOWN = -1  # num_correct of a row without segments, in the store

Dtype = Literal["float32", "int32"]
Dimension = Literal["text", "segment", "coordinate"]

_OF_TEXTS = {
    "log_likelihood": "log-likelihood of the text",
    "num_tokens": "tokens scored",
    "num_correct": "scored tokens that were the model's first choice",
    "segment_log_likelihood": "log-likelihood of the segment",
    "fine_coordinate": "coordinate of what the segments' log-likelihoods differ in",
}
_OF_PAIRS = {
    "log_likelihood": "log-likelihood of the response, given its prompt",
    "num_tokens": "tokens of the response scored, given its prompt",
    "log_likelihood_response": "log-likelihood of the response alone",
    "num_tokens_response": "tokens scored of the response alone",
    "num_correct": "scored tokens of the response, given its prompt, that were the model's first choice",
    "num_correct_response": "scored tokens of the response alone that were the model's first choice",
    "segment_log_likelihood": "log-likelihood of the segment of the response, given its prompt",
    "segment_log_likelihood_response": "log-likelihood of the segment of the response alone",
    "fine_coordinate": "coordinate of what the segments' log-likelihoods, given the prompt, differ in",
    "fine_coordinate_response": "coordinate of what the segments' log-likelihoods of the response alone differ in",
}


def row_variables(*, pairs: bool, fine: bool = False) -> tuple[str, ...]:
    """Names of the arrays in a row's file, in the order in which its digest takes them.

    Parameters
    ----------
    pairs : bool
        Whether the row is of (prompt, response) pairs.
    fine : bool
        Whether it has segments.
    """
    return _variables((*CORRECT_VARIABLES, *SEGMENT_VARIABLES) if fine else (), pairs)


def store_variables(*, pairs: bool, fine: bool) -> tuple[str, ...]:
    """Names of the arrays of values in the store of a registry, `fine` if its rows may have segments."""
    return _variables((*CORRECT_VARIABLES, *FINE_VARIABLES) if fine else (), pairs)


def _variables(further: tuple[str, ...], pairs: bool) -> tuple[str, ...]:
    return tuple(name for name in (*PAIR_VARIABLES, *further) if pairs or not name.endswith("_response"))


def is_count(name: str) -> bool:
    """Whether a variable counts tokens; else it is of log-likelihoods."""
    return name.startswith("num_")


def is_fine_only(name: str) -> bool:
    """Whether only rows with segments have values of a variable."""
    return name not in PAIR_VARIABLES


def dtype_of(name: str) -> Dtype:
    """Type of a variable: log-likelihoods of texts and coordinates are float32, counts and segments int32."""
    return "int32" if is_count(name) or name in SEGMENT_VARIABLES else "float32"


def dimension_of(name: str) -> Dimension:
    """What a row's variable has a value of."""
    if name in SEGMENT_VARIABLES:
        return "segment"
    return "coordinate" if name in FINE_VARIABLES else "text"


def array_attributes(name: str, *, pairs: bool) -> dict[str, Any]:
    """Attributes of a variable's array, here and in the store."""
    attributes: dict[str, Any] = {
        "long_name": (_OF_PAIRS if pairs else _OF_TEXTS)[name],
        "units": "1" if is_count(name) else "nat",
    }
    if name in SEGMENT_VARIABLES:  # readers of CF conventions get nats, NaN where not scored
        attributes |= {"scale_factor": RESOLUTION, "_FillValue": UNSCORED}
    return attributes
