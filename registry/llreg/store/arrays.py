"""Which arrays a row has, of what type, and what they are called for people."""

from __future__ import annotations

from typing import Any, Literal

# Log-likelihoods of the texts and the tokens they were summed over; in a registry of (prompt, response) pairs those of
# the response given its prompt, and then those of the response alone.
TEXT_VARIABLES = ("log_likelihood", "num_tokens")
PAIR_VARIABLES = (*TEXT_VARIABLES, "log_likelihood_response", "num_tokens_response")

Dtype = Literal["float32", "int32"]

_OF_TEXTS = {"log_likelihood": "log-likelihood of the text", "num_tokens": "tokens scored"}
_OF_PAIRS = {
    "log_likelihood": "log-likelihood of the response, given its prompt",
    "num_tokens": "tokens of the response scored, given its prompt",
    "log_likelihood_response": "log-likelihood of the response alone",
    "num_tokens_response": "tokens scored of the response alone",
}


def row_variables(*, pairs: bool) -> tuple[str, ...]:
    """Names of a row's arrays, in the order in which its digest takes them."""
    return PAIR_VARIABLES if pairs else TEXT_VARIABLES


def is_count(name: str) -> bool:
    """Whether a variable counts tokens; else it is a log-likelihood."""
    return name.startswith("num_tokens")


def dtype_of(name: str) -> Dtype:
    """Type of a variable: log-likelihoods are float32, counts int32."""
    return "int32" if is_count(name) else "float32"


def array_attributes(name: str, *, pairs: bool) -> dict[str, Any]:
    """Attributes of a variable's array, here and in the store."""
    return {"long_name": (_OF_PAIRS if pairs else _OF_TEXTS)[name], "units": "1" if is_count(name) else "nat"}
