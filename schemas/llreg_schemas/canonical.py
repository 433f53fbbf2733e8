"""Canonical JSON and the hashes that name texts, protocols, rows and versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal text.

    Examples
    --------
    >>> canonical_json({"b": 1, "a": [True, None]})
    '{"a":[true,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def pretty_json(value: Any) -> str:
    """JSON as it stands in registry files: indented, sorted, final newline."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def sha256_text(text: str) -> str:
    """sha256 of the UTF-8 bytes of `text`, 64 hex digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def text_set_id(text_hashes: Iterable[str]) -> str:
    """Id of a text set: sha256 over its texts' sha256s (hex, one a line) in order."""
    return sha256_text("".join(f"{digest}\n" for digest in text_hashes))


def hash_json(value: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of `value`, 64 hex digits."""
    return sha256_text(canonical_json(value))


def row_digest(
    identity: Mapping[str, Any],
    log_likelihood: NDArray[np.float32],
    num_tokens: NDArray[np.int32],
    log_likelihood_response: NDArray[np.float32] | None = None,
    num_tokens_response: NDArray[np.int32] | None = None,
) -> str:
    """Digest of a row: its identity and its values, never the time or the host.

    Parameters
    ----------
    identity : mapping
        The row's identity as JSON.
    log_likelihood : float32 array of shape (n_texts,), nats
        NaN where a text was not scored; every NaN counts as the same NaN.
    num_tokens : int32 array of shape (n_texts,), tokens scored
    log_likelihood_response, num_tokens_response : arrays of the same kinds, optional
        Of the response alone, in rows of (prompt, response) pairs.

    Returns
    -------
    str
        64 hex digits.
    """
    import numpy as np

    digest = hashlib.sha256(canonical_json(identity).encode("utf-8"))
    digest.update(b"\n")
    for values, counts in ((log_likelihood, num_tokens), (log_likelihood_response, num_tokens_response)):
        if values is not None:
            plain = np.array(values, dtype="<f4", copy=True)
            plain[np.isnan(plain)] = np.nan  # one bit pattern for NaN
            digest.update(plain.tobytes())
        if counts is not None:
            digest.update(np.ascontiguousarray(counts, dtype="<i4").tobytes())
    return digest.hexdigest()


def version_id(digests: Iterable[str]) -> str:
    """Version of a registry: sha256 over its sorted accepted row digests, one a line."""
    return sha256_text("".join(f"{digest}\n" for digest in sorted(digests)))
