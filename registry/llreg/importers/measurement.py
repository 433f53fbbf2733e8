"""What an importer hands over: one model's values, what its file says of the model, and which file that is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llreg import settings
from llreg.names import is_name
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_UNPRINTABLE = re.compile(r"[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]")  # as row.schema.json
# What a record may hold of what a file says.
_MAX_CHARACTERS, _MAX_BASE_MODELS, _MAX_TAGS, _MAX_PARAMETERS = 500, 32, 200, 2**53


@dataclass(frozen=True, eq=False)
class Measurement:
    """One model's values, as a file holds them.

    Attributes
    ----------
    model : str
    log_likelihood : array of shape (n_texts,), nats
        NaN where the text was not scored.
    location : str
        Where in the file, for messages.
    weight_dtype : str or None
    revision, quantization : str or None
    declared : mapping
        What the file says of the model beside its values, in the terms of a row record.
    provenance : mapping
        What it says of how the values came about.
    """

    model: str
    log_likelihood: NDArray[np.generic]
    location: str
    weight_dtype: str | None
    revision: str | None = None
    quantization: str | None = None
    declared: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """The file that rows come from.

    Attributes
    ----------
    kind : str
        The importer, as "modelmap".
    file : str
    sha256 : str
    """

    kind: str
    file: str
    sha256: str

    @classmethod
    def of(cls, kind: str, path: Path, data: bytes) -> Origin:
        """The origin of what was read from a file."""
        return cls(kind, clean(path.name) or "unnamed", hashlib.sha256(data).hexdigest())

    def to_provenance(self) -> dict[str, str]:
        """As a row's provenance holds it."""
        return {"import": self.kind, "import_file": self.file, "import_sha256": self.sha256}


def read_bounded(path: Path) -> bytes:
    """A file's bytes, at most `settings.MAX_IMPORT_BYTES` of them.

    Raises
    ------
    InputError
        If it is missing, no regular file, or longer than the limit.
    """
    limit = settings.MAX_IMPORT_BYTES
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        size = path.stat().st_size
        if size > limit:
            raise InputError(f"{path}: expected at most {limit:,} bytes; got {size:,}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def clean(value: object) -> str | None:
    """`value` as text that a record may hold, or None where it is no text."""
    return (_UNPRINTABLE.sub("", value)[:_MAX_CHARACTERS] or None) if isinstance(value, str) else None


def make_declared(**facts: Any) -> dict[str, Any]:
    """The "declared" part of a record, from what a file says of a model; what is no such thing is left out.

    Parameters
    ----------
    **facts
        base_model (a name or a list of names), num_parameters, relation, licence, architecture, created, downloads, tags.
    """
    bases = facts.get("base_model") or []
    if isinstance(bases, str):
        bases = [bases]
    number, downloads = facts.get("num_parameters"), facts.get("downloads")
    declared: dict[str, Any] = {
        "base_model": [base for base in bases if isinstance(base, str) and is_name(base)][:_MAX_BASE_MODELS],
        "num_parameters": number if isinstance(number, int) and 0 <= number < _MAX_PARAMETERS else None,
        **{name: clean(facts.get(name)) for name in ("relation", "licence", "architecture", "created")},
    }
    if isinstance(downloads, int) and downloads >= 0:
        declared["downloads"] = downloads
    tags = [text for text in map(clean, facts.get("tags") or []) if text]
    if tags:
        declared["tags"] = tags[:_MAX_TAGS]
    return declared
