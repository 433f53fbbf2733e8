"""How exact the values of a file are: those that went through float16, or were printed with few digits, say so themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIGNIFICANT_BITS = {"bfloat16": 8, "float16": 11, "float32": 24}  # narrowest first
_MOST_DECIMALS = 3  # more are finer than what float32 arithmetic puts on a text


def value_precision(values: NDArray[np.float64]) -> tuple[str, float]:
    """The narrowest type that holds a row's values, and the error that their rounding has put on them.

    Parameters
    ----------
    values : float64 array of shape (n_texts,), nats
        NaN where not scored.

    Returns
    -------
    dtype : {"bfloat16", "float16", "float32"}
        "float32" also of what needs float64: rows are stored in float32.
    rounding : float
        Root mean square rounding error of a value, nats.

    Notes
    -----
    The array's own type would not do: what was float16 once stays as coarse in any other. A value of full precision ends in
    13 zero bits by a chance of 2**-13, all of a row by none. Rounding to steps of d adds an error of variance d**2 / 12.
    """
    scored = values[~np.isnan(values)]
    mantissas, exponents = np.frexp(scored)  # 0.5 <= abs(mantissa) < 1
    dtype, bits = "float32", _SIGNIFICANT_BITS["float32"]
    for name, its_bits in _SIGNIFICANT_BITS.items():
        digits = np.ldexp(mantissas, its_bits)
        if (digits == np.rint(digits)).all():
            dtype, bits = name, its_bits
            break
    steps = np.ldexp(1.0, exponents - bits)  # (n_scored,), nats
    rounding = float(np.sqrt((steps**2).mean() / 12))
    # Of few decimals: within what float32, which they may have gone through since, does to them.
    tolerance = np.spacing(np.abs(scored).astype(np.float32)).astype(np.float64)
    for decimals in range(_MOST_DECIMALS + 1):
        if (np.abs(scored - np.round(scored, decimals)) <= tolerance).all():
            rounding = max(rounding, 10.0**-decimals / np.sqrt(12))
            break
    return dtype, float(rounding)
