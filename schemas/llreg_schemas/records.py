"""The documents of a registry as Python values; the JSON Schemas beside this file define them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from llreg_schemas.canonical import hash_json
from llreg_schemas.errors import InputError

REGISTRY_FORMAT, ROW_FORMAT = "llreg-registry", "llreg-row"
VERSION_FORMAT, RETRACTION_FORMAT, SUBSET_FORMAT = "llreg-version", "llreg-retraction", "llreg-subset"
FORMAT_VERSION = 1
# Of registry.json, of row records and of the build: 2 where rows hold segments, which older versions cannot read.
FINE_VERSION = 2

PROTOCOL_NAME, CONDITIONAL_NAME = "modelmap-1", "conditional-1"
RESOLUTION = 1 / 256  # nats, of the segments in a row
# How texts are cut into segments and tokens are counted for them; see llreg.texts.segments.
SEGMENTS_RULES: Mapping[str, Any] = {
    "name": "whitespace-1",
    "target_bytes": 24,
    "max_bytes": 48,
    "tokens": "by-first-byte",
    "resolution": RESOLUTION,
}
PAIRS = "pairs"  # kind of a text set whose items are (prompt, response) pairs

Rendering = Literal["chat-template", "raw"]
RENDERINGS: tuple[Rendering, ...] = ("chat-template", "raw")
PROMPT_DATE = "2024-07-26"  # today, as a chat template sees it: many write the date, and values must not change with it


@dataclass(frozen=True)
class Identity:
    """What a row measured: everything that decides its values, nothing else.

    Attributes
    ----------
    model : str
        Hub id, or the name given to a local model.
    source : {"hub", "local", "imported"}
    revision : str or None
        40-hex commit of a Hub model; ``sha256:<hex>`` over the files of a local one; None where it is unknown (imported rows).
    file, subfolder : str or None
        The GGUF file, or the folder, inside the repository or directory; with an adapter, the folder inside its own.
    adapter : mapping or None
        ``{"model", "revision"}`` of a PEFT adapter laid over the model; the model is its base then.
    weight_dtype : str
        dtype the weights had while scoring: "float32", "bfloat16", "float16".
    quantization : str or None
        How the weights were quantised, as "gguf:Q4_1".
    text_set, protocol : str
        Their ids, 64 hex digits.
    subset : str or None
        Id of the text subset the row was scored on; None: all texts.
    """

    model: str
    source: str
    revision: str | None
    weight_dtype: str
    text_set: str
    protocol: str
    file: str | None = None
    subfolder: str | None = None
    adapter: Mapping[str, str] | None = None
    quantization: str | None = None
    subset: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The identity as JSON; without `subset` where there is none, so that digests of full rows stay what they were."""
        document = {**vars(self), "adapter": dict(self.adapter) if self.adapter else None}
        return {name: value for name, value in document.items() if name != "subset" or value is not None}

    @property
    def name(self) -> str:
        """What the row is called: the adapter where there is one, else the model."""
        return str(self.adapter["model"]) if self.adapter else self.model

    @property
    def id(self) -> str:
        """sha256 of the identity; rows that share it are replicates, where it says which weights were measured."""
        return hash_json(self.to_json())

    @property
    def is_pinned(self) -> bool:
        """Whether it says which weights were measured: an imported row may know no revision, and another none either."""
        return self.revision is not None

    @property
    def weights(self) -> tuple[str | None, ...]:
        """What tells the weights of rows of one name apart: commit or hash, and folder; not how they were packed or loaded."""
        return self.revision, self.subfolder, self.adapter["revision"] if self.adapter else None

    def is_replicate_of(self, other: Identity) -> bool:
        """Whether two rows are one measurement made twice: one identity, which says of which weights."""
        return self.is_pinned and self.id == other.id


@dataclass(frozen=True)
class RowRecord:
    """A row's record: identity, provenance and declared metadata, and its digest.

    `provenance` and `declared` are the JSON objects of ``row.schema.json``, kept whole, so that a
    record written by a later llreg survives a build by this one.
    """

    identity: Identity
    provenance: Mapping[str, Any]
    declared: Mapping[str, Any]
    digest: str

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> RowRecord:
        """The record in a document that ``row.schema.json`` accepts."""
        return cls(
            identity=Identity(**document["identity"]),
            provenance=document["provenance"],
            declared=document["declared"],
            digest=document["digest"],
        )

    def to_json(self) -> dict[str, Any]:
        """The record as JSON."""
        return {
            "format": ROW_FORMAT,
            "format_version": FINE_VERSION if self.is_fine else FORMAT_VERSION,
            "identity": self.identity.to_json(),
            "provenance": dict(self.provenance),
            "declared": dict(self.declared),
            "digest": self.digest,
        }

    @property
    def row_id(self) -> str:
        """Stable name of the row: ``<name>@<first 8 hex digits of the digest>``, the name being the identity's."""
        return f"{self.identity.name}@{self.digest[:8]}"

    @property
    def sort_key(self) -> tuple[str, str]:
        """Order of rows in a build: time added, then digest, so that new rows go last."""
        return self.added_at, self.digest

    # What is read most of the two JSON objects

    @property
    def is_fine(self) -> bool:
        """Whether the row has segments."""
        return self.segments_sha256 is not None

    @property
    def segments_sha256(self) -> str | None:
        """Hash of the row's segments, which its digest covers; None where it has none."""
        return self.provenance.get("segments_sha256")

    @property
    def added_at(self) -> str:
        """Time the row was computed, UTC, as ``2026-01-02T03:04:05.000000Z``."""
        return str(self.provenance["added_at"])

    @property
    def contributor(self) -> str | None:
        """Who added the row; None where it does not say."""
        return self.provenance.get("contributor")

    @property
    def base_models(self) -> list[str]:
        """Models that this one declares it was derived from."""
        return list(self.declared.get("base_model") or ())

    @property
    def num_parameters(self) -> int | None:
        """Parameters, as declared."""
        return self.declared.get("num_parameters")

    @property
    def architecture(self) -> str | None:
        """Class of the model, as its config declares it."""
        return self.declared.get("architecture")

    @property
    def licence(self) -> str | None:
        """Licence of the model, as declared."""
        return self.declared.get("licence")


@dataclass(frozen=True)
class TextSetInfo:
    """Header of a text set.

    Attributes
    ----------
    id : str
        sha256 over the texts' sha256s, 64 hex digits.
    num_texts : int
    mean_bytes : float
        Mean UTF-8 bytes of a text, or of a pair's response: the B of bits per byte.
    subsets : mapping of str to int
        Texts per subset, in order of first appearance.
    kind : str or None
        "pairs" where the items are (prompt, response) pairs; None: texts.
    mean_prompt_bytes : float or None
        Mean UTF-8 bytes of a pair's prompt; None where there are no pairs.
    """

    id: str
    name: str
    licence: str
    num_texts: int
    mean_bytes: float
    subsets: Mapping[str, int]
    description: str = ""
    kind: str | None = None
    mean_prompt_bytes: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The header as JSON; without what only pairs have where there are none."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


class RegistryInfo(dict[str, Any]):
    """registry.json: its JSON object, with names for what is read of it most."""

    @property
    def name(self) -> str:
        """Name of the registry."""
        return str(self["name"])

    @property
    def licence(self) -> str:
        """Licence of the rows."""
        return str(self["licence"])

    @property
    def text_set(self) -> TextSetInfo:
        """Header of its text set."""
        return TextSetInfo(**self["text_set"])

    @property
    def has_pairs(self) -> bool:
        """Whether its texts are (prompt, response) pairs."""
        return self.text_set.kind == PAIRS

    @property
    def protocol_id(self) -> str:
        """Id of its protocol, 64 hex digits."""
        return str(self["protocol"]["id"])

    @property
    def segments(self) -> Mapping[str, Any] | None:
        """How its texts are cut into segments; None in a registry of format 1, whose rows have none."""
        segments: Mapping[str, Any] | None = self.get("segments")
        return segments

    @property
    def num_segments(self) -> int:
        """Segments of all its texts; 0 in a registry of format 1."""
        return 0 if self.segments is None else int(self.segments["num_segments"])

    @property
    def rendering(self) -> Rendering | None:
        """How models see the prompts of its pairs; None in a registry of texts."""
        rendering: Rendering | None = self["protocol"].get("prompt")
        return rendering

    @property
    def view(self) -> Mapping[str, Any]:
        """Document of its default view."""
        view: Mapping[str, Any] = self["view"]
        return view


def modelmap_protocol(text_set: str) -> dict[str, Any]:
    """Protocol ``modelmap-1`` on a text set: what must be equal for rows to be comparable.

    The rule is that of the paper's published script (Oyama et al., ACL 2025, arXiv 2502.16173), with
    two deliberate differences: log-softmax in float32, and NaN for a text longer than the context.
    """
    rules: dict[str, Any] = {
        "name": PROTOCOL_NAME,
        "version": 1,
        "text_set": text_set,
        "special_tokens": "tokenizer-default",
        "split_special_tokens": False,
        "scored_tokens": "all-but-first",
        "over_context": "nan",
        "log_softmax_dtype": "float32",
        "sum_dtype": "float64",
    }
    return {**rules, "id": hash_json(rules)}


def conditional_protocol(text_set: str, prompt: Rendering) -> dict[str, Any]:
    """Protocol ``conditional-1`` on a set of pairs: ln p(response | prompt), and the response alone as in ``modelmap-1``.

    Vectors of this kind are Oyama et al.'s for conditional distributions (arXiv 2603.18593).

    Parameters
    ----------
    text_set : str
    prompt : {"chat-template", "raw"}
        Whether models see a prompt through their own chat template, or as it is.
    """
    rules: dict[str, Any] = {
        "name": CONDITIONAL_NAME,
        "version": 1,
        "text_set": text_set,
        "prompt": prompt,
        "boundary": "tokenised-apart",
        "scored_tokens": "response",
        "end_of_turn": "not-scored",
        "response_alone": PROTOCOL_NAME,
        "split_special_tokens": False,
        "over_context": "nan",
        "log_softmax_dtype": "float32",
        "sum_dtype": "float64",
    }
    rules |= {"date": PROMPT_DATE} if prompt == "chat-template" else {}
    return {**rules, "id": hash_json(rules)}


def make_view(clip: float | None, **rules: Any) -> dict[str, Any]:
    """Document of a view: clips log-likelihoods below at `clip` nats per text (None: as they are), and what else it does.

    Parameters
    ----------
    clip : float or None
    **rules
        Further rules of ``view.schema.json``: vector, only, without, drop, weights. Those that are not given
        are not in the document, so that they do not change its id.

    Raises
    ------
    InputError
        If `clip` is not a finite number of at most 0.
    """
    if clip is not None and not -math.inf < clip <= 0:
        raise InputError(f"clip: expected a finite number of at most 0 nats, or none; got {clip}")
    document = {"clip": clip, **rules}
    return {**document, "id": hash_json(document)}


def version_manifest(
    tag: str, version: str, created: str, rows: Sequence[str], view: Mapping[str, Any]
) -> dict[str, Any]:
    """Document ``versions/<tag>.json``: the row digests a named version holds, and the default view at the time."""
    return {
        "format": VERSION_FORMAT,
        "format_version": FORMAT_VERSION,
        "tag": tag,
        "version": version,
        "created": created,
        "view": view["id"],
        "view_document": dict(view),
        "rows": sorted(rows),
    }


def retraction(digest: str, model: str, why: str, by: str | None, time: str) -> dict[str, Any]:
    """Document ``retractions/<digest>.json``: a row withdrawn, with the reason."""
    return {
        "format": RETRACTION_FORMAT,
        "format_version": FORMAT_VERSION,
        "digest": digest,
        "model": model,
        "why": why,
        "by": by,
        "at": time,
    }


def now() -> str:
    """The time in UTC to the microsecond, as records hold it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
