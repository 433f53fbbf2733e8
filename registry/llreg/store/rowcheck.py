"""What the values, counts and identity of a row must be to stand in a registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llreg.store.arrays import UNSCORED, dimension_of, row_variables, store_variables
from llreg.store.fine import FineMap
from llreg.store.rowfile import Row
from llreg.texts.segments import Cuts
from llreg_schemas.errors import InvalidFileError
from llreg_schemas.records import RESOLUTION, RegistryInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Why a text may have no value, by the name under which a record counts such texts.
REASONS = {
    "over_context": "over the context",
    "non_finite": "not finite",
    "unscored": "too short",
    "unknown_token": "without a token for a part of it",
}

_TOKENS_PER_BYTE = 16  # Unicode normalisation can turn one 3-byte character into 33 bytes
_NATS_PER_TOKEN = 10_000  # far beyond what a model can lose on one token
_EXTRA_TOKENS = 16  # special tokens around a text


def check_values(
    row: Row, info: RegistryInfo, num_bytes: NDArray[np.float64], label: str, fine: FineMap | None = None
) -> None:
    """Check a row's values, counts and identity against the registry it is in.

    Parameters
    ----------
    row : Row
    info : RegistryInfo
    num_bytes : float64 array of shape (n_texts,)
        UTF-8 bytes of the texts.
    label : str
        Name of the file in messages.
    fine : FineMap, optional
        Of the registry; needed for a row that has segments.

    Raises
    ------
    InvalidFileError
        If the row is of another text set, protocol or cuts, lacks an array, or a value or count is impossible.
    """
    import numpy as np

    identity = row.record.identity
    for field, got, expected in (
        ("text_set", identity.text_set, info.text_set.id),
        ("protocol", identity.protocol, info.protocol_id),
    ):
        if got != expected:
            raise InvalidFileError(
                label,
                f"expected this registry's {expected[:12]}…; got {got[:12]}…: such rows are not comparable",
                field=f"identity.{field}",
            )
    if row.record.is_fine:
        segments = row.record.provenance.get("segments")
        if info.segments is None or segments != info.segments["id"]:
            raise InvalidFileError(
                label,
                f"expected the cuts of this registry, {info.segments['id'][:12] + '…' if info.segments else 'none'}; got "
                f"{str(segments)[:12]}…: such segments are not comparable",
                field="provenance.segments",
            )
    # A row of the store has no segments, and coordinates in their place.
    variables = store_variables if row.fine_coordinate is not None else row_variables
    expected_arrays = variables(pairs=info.has_pairs, fine=row.record.is_fine)
    if tuple(row.arrays) != expected_arrays:
        raise InvalidFileError(
            label, f"expected the arrays {', '.join(expected_arrays)}; got {', '.join(row.arrays)}", field="zarr.json"
        )
    if np.isnan(row.log_likelihood).all():
        raise InvalidFileError(label, "expected at least one scored text; all are NaN", field="log_likelihood")
    for suffix in suffixes(row):
        _check_arrays(row, suffix, num_bytes, label)
        if fine is not None and row.segment_log_likelihood is not None:
            _check_segments(row, suffix, fine.cuts, label)
        elif fine is not None:
            coordinates = row.arrays[f"fine_coordinate{suffix}"]  # (n_coordinates,)
            missing = np.isnan(row.arrays[f"log_likelihood{suffix}"])[fine.text]
            wrong = np.isinf(coordinates) | (np.isnan(coordinates) != missing)
            refuse(wrong, label, f"fine_coordinate{suffix}", "a number, or NaN where the text's value is", coordinates)


def suffixes(row: Row) -> list[str]:
    """Endings of the names of a row's pairs of arrays, and of the counts in its record: "" and, of pairs, "_response"."""
    return [name.removeprefix("num_tokens") for name in row.arrays if name.startswith("num_tokens")]


def _check_arrays(row: Row, suffix: str, num_bytes: NDArray[np.float64], label: str) -> None:
    import numpy as np

    values_name, tokens_name = f"log_likelihood{suffix}", f"num_tokens{suffix}"
    values, tokens = row.arrays[values_name], row.arrays[tokens_name]  # both (n_texts,)
    missing = np.isnan(values)
    refuse(np.isinf(values), label, values_name, "a finite number or NaN", values)
    refuse(values > 0, label, values_name, "at most 0 nats (a probability is at most 1)", values)
    # (n_texts,): what the text can hold, and where counts are known, the count itself.
    most_tokens = _TOKENS_PER_BYTE * num_bytes + _EXTRA_TOKENS
    if row.record.identity.source != "imported" or tokens.any():  # else the counts are unknown
        refuse(tokens < 0, label, tokens_name, "at least 0", tokens)
        refuse(missing != (tokens == 0), label, tokens_name, f"0 exactly where {values_name} is NaN", tokens)
        refuse(tokens > most_tokens, label, tokens_name, "no more tokens than the text can hold", tokens)
        most_tokens = tokens.astype(np.float64)
    lowest = -_NATS_PER_TOKEN * most_tokens
    refuse(values < lowest, label, values_name, f"at least {-_NATS_PER_TOKEN} nats a token", values)

    if (correct := row.arrays.get(f"num_correct{suffix}")) is not None:
        wrong = (correct < 0) | (correct > tokens)
        refuse(wrong, label, f"num_correct{suffix}", "0 up to the tokens scored", correct)

    # The record must count what the arrays hold.
    provenance = row.record.provenance
    total, recorded = int(tokens.sum(dtype=np.int64)), provenance.get(f"tokens{suffix}")
    if recorded != total:
        raise InvalidFileError(
            label,
            f"expected {total:,}, the sum of {tokens_name}; got {'nothing' if recorded is None else f'{recorded:,}'}",
            field=f"provenance.tokens{suffix}",
        )
    check_left_out(provenance, suffix, int(missing.sum()), "as many as are NaN", label)
    # What a row says of its own error widens what passes for equal to it: no more than bfloat16 or whole numbers have.
    rounding = provenance.get("value_rounding")
    if rounding and not suffix:
        step = 1.01 * max(1.0, 2.0**-7 * float(np.sqrt(np.nanmean(values.astype(np.float64) ** 2))))
        if rounding > step / np.sqrt(12):
            raise InvalidFileError(
                label,
                f"expected at most {step / np.sqrt(12):.3g} nats, as of whole nats or bfloat16 at this size; got {rounding}",
                field="provenance.value_rounding",
            )


def _check_segments(row: Row, suffix: str, cuts: Cuts, label: str) -> None:
    """Segments must be log-likelihoods, there exactly where the text's is, and sum to it."""
    import numpy as np

    name = f"segment_log_likelihood{suffix}"
    values, segments = row.arrays[f"log_likelihood{suffix}"], row.arrays[name]  # (n_texts,), (n_segments,)
    missing = np.isnan(values)[cuts.text]  # (n_segments,)
    unscored = segments == UNSCORED
    refuse(missing != unscored, label, name, f"{UNSCORED} exactly where log_likelihood{suffix} is NaN", segments)
    refuse(segments > 0, label, name, "at most 0 (a probability is at most 1)", segments)
    sums = RESOLUTION * cuts.sums(np.where(missing, 0, segments))  # (n_texts,), nats
    # Half a unit of the sums' rounding, and that of the value itself to float32.
    tolerance = RESOLUTION / 2 + np.spacing(np.abs(values)).astype(np.float64)
    wrong = np.abs(sums - values.astype(np.float64)) > tolerance  # NaN: False
    if wrong.any():
        text = int(wrong.argmax())
        raise InvalidFileError(
            label,
            f"expected segments that sum to the text's {values[text]:.3f} nats; got {sums[text]:.3f} in text {text}",
            field=name,
        )


def refuse(wrong: NDArray[np.bool_], label: str, field: str, expected: str, values: NDArray[Any]) -> None:
    """Refuse an array that has a wrong value, naming the first one."""
    if wrong.any():
        k = int(wrong.argmax())
        each = dimension_of(field)
        raise InvalidFileError(label, f"expected {expected}; got {values[k]} at {each} {k}", field=field)


def check_left_out(provenance: Mapping[str, Any], suffix: str, most: int, why: str, label: str) -> None:
    """Refuse a record that gives a reason for more texts without a value than there can be."""
    num_texts = sum(provenance.get(f"{name}{suffix}", 0) for name in REASONS)
    if num_texts > most:
        raise InvalidFileError(
            label,
            f"expected at most {most:,} texts {', '.join(REASONS.values())}: {why}; got {num_texts:,}",
            field="provenance",
        )
