"""What the values, counts and identity of a row must be to stand in a registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llreg.store.arrays import is_count, row_variables
from llreg.store.rowfile import Row
from llreg_schemas.errors import InvalidFileError
from llreg_schemas.records import PAIRS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TOKENS_PER_BYTE = 16  # Unicode normalisation can turn one 3-byte character into 33 bytes
_NATS_PER_TOKEN = 10_000  # far beyond what a model can lose on one token
_EXTRA_TOKENS = 16  # special tokens around a text


def check_values(row: Row, info: Mapping[str, Any], num_bytes: NDArray[np.float64], shown: str) -> None:
    """Check a row's values, counts and identity against the registry it is in.

    Parameters
    ----------
    row : Row
    info : mapping
        registry.json.
    num_bytes : float64 array of shape (n_texts,)
        UTF-8 bytes of the texts.
    shown : str
        Name of the file in messages.

    Raises
    ------
    InvalidFileError
        If the row is of another text set or protocol, lacks an array, or a value or count is impossible.
    """
    import numpy as np

    identity = row.record.identity
    for field, expected in (("text_set", info["text_set"]["id"]), ("protocol", info["protocol"]["id"])):
        got = getattr(identity, field)
        if got != expected:
            raise InvalidFileError(
                shown,
                f"expected this registry's {expected[:12]}…; got {got[:12]}…: such rows are not comparable",
                field=f"identity.{field}",
            )
    expected_arrays = row_variables(pairs=info["text_set"].get("kind") == PAIRS)
    if tuple(row.arrays) != expected_arrays:
        raise InvalidFileError(
            shown, f"expected the arrays {', '.join(expected_arrays)}; got {', '.join(row.arrays)}", field="zarr.json"
        )
    if np.isnan(row.log_likelihood).all():
        raise InvalidFileError(shown, "expected at least one scored text; all are NaN", field="log_likelihood")
    for suffix in suffixes(row):
        _check_arrays(row, suffix, num_bytes, shown)
        _check_counts(row, suffix, shown)


def suffixes(row: Row) -> list[str]:
    """Endings of the names of a row's pairs of arrays, and of the counts in its record: "" and, of pairs, "_response"."""
    return [name.removeprefix("num_tokens") for name in row.arrays if is_count(name)]


def _check_arrays(row: Row, suffix: str, num_bytes: NDArray[np.float64], shown: str) -> None:
    import numpy as np

    named, counted = f"log_likelihood{suffix}", f"num_tokens{suffix}"
    values, tokens = row.arrays[named], row.arrays[counted]
    missing = np.isnan(values)
    refuse(np.isinf(values), shown, named, "a finite number or NaN", values)
    refuse(values > 0, shown, named, "at most 0 nats (a probability is at most 1)", values)
    limit = _TOKENS_PER_BYTE * num_bytes + _EXTRA_TOKENS
    if row.record.identity.source == "imported" and not tokens.any():  # unknown
        possible = limit
    else:
        refuse(tokens < 0, shown, counted, "at least 0", tokens)
        refuse(missing != (tokens == 0), shown, counted, f"0 exactly where {named} is NaN", tokens)
        refuse(tokens > limit, shown, counted, "no more tokens than the text can hold", tokens)
        possible = tokens.astype(np.float64)
    refuse(
        values < -_NATS_PER_TOKEN * possible,
        shown,
        named,
        f"at least {-_NATS_PER_TOKEN} nats a token",
        values,
    )


def refuse(wrong: Any, shown: str, field: str, expected: str, values: Any) -> None:
    if wrong.any():
        text = int(wrong.argmax())
        raise InvalidFileError(shown, f"expected {expected}; got {values[text]} at text {text}", field=field)


def _check_counts(row: Row, suffix: str, shown: str) -> None:
    import numpy as np

    provenance, counted = row.record.provenance, f"num_tokens{suffix}"
    total, told = int(row.arrays[counted].sum(dtype=np.int64)), provenance.get(f"tokens{suffix}")
    if told != total:
        raise InvalidFileError(
            shown,
            f"expected {total:,}, the sum of {counted}; got {'nothing' if told is None else f'{told:,}'}",
            field=f"provenance.tokens{suffix}",
        )
    reasons = left_out(provenance, suffix)
    missing = int(np.isnan(row.arrays[f"log_likelihood{suffix}"]).sum())
    if reasons > missing:
        raise InvalidFileError(
            shown,
            f"expected at most {missing:,} texts over the context, non-finite or unscored, as many as are NaN; "
            f"got {reasons:,}",
            field="provenance",
        )


def left_out(provenance: Mapping[str, Any], suffix: str) -> int:
    """Texts that a record gives a reason for having no value of."""
    return sum(provenance.get(f"{name}{suffix}", 0) for name in ("over_context", "non_finite", "unscored"))
