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


def segments_sha256(*segments: NDArray[np.int32] | None) -> str:
    """Hash of a row's segments, which its record holds: with it the other values can be checked without them.

    Parameters
    ----------
    *segments : int32 arrays of shape (n_segments,)
        In a row of pairs those of the response given its prompt, and then those of the response alone.
    """
    digest = hashlib.sha256()
    for values in segments:
        if values is not None:
            digest.update(_bytes_of(values, "<i4"))
    return digest.hexdigest()


def row_digest(
    identity: Mapping[str, Any],
    log_likelihood: NDArray[np.float32],
    num_tokens: NDArray[np.int32],
    log_likelihood_response: NDArray[np.float32] | None = None,
    num_tokens_response: NDArray[np.int32] | None = None,
    *,
    num_correct: NDArray[np.int32] | None = None,
    num_correct_response: NDArray[np.int32] | None = None,
    segments_sha256: str | None = None,
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
    num_correct, num_correct_response : int32 arrays of shape (n_texts,), optional
        Tokens that were the model's first choice, in rows with segments.
    segments_sha256 : str, optional
        Hash of the segments, see `segments_sha256`, in rows that have them.

    Returns
    -------
    str
        64 hex digits.
    """
    digest = hashlib.sha256(canonical_json(identity).encode("utf-8"))
    digest.update(b"\n")
    for values, counts in ((log_likelihood, num_tokens), (log_likelihood_response, num_tokens_response)):
        if values is not None:
            digest.update(_bytes_of(values, "<f4"))
        if counts is not None:
            digest.update(_bytes_of(counts, "<i4"))
    for counts in (num_correct, num_correct_response):
        if counts is not None:
            digest.update(_bytes_of(counts, "<i4"))
    digest.update((segments_sha256 or "").encode())
    return digest.hexdigest()


def _bytes_of(values: NDArray[Any], dtype: str) -> bytes:
    """An array as the bytes of one type, with one bit pattern for NaN."""
    import numpy as np

    plain = np.array(values, dtype=dtype, copy=True)
    if plain.dtype.kind == "f":
        plain[np.isnan(plain)] = np.nan
    return plain.tobytes()


def version_id(digests: Iterable[str]) -> str:
    """Version of a registry: sha256 over its sorted accepted row digests, one a line."""
    return sha256_text("".join(f"{digest}\n" for digest in sorted(digests)))
