"""`verify`: score a random sample of a row's texts again with its model, and compare: the only check nobody can forge."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import llreg_extract
from llreg.verify.comparison import Agreement
from llreg.verify.rescoring import Rescoring, Sample, scorable
from llreg_extract.source import quantize_of
from llreg_schemas import sha256_text
from llreg_schemas.errors import InputError, MissingExtraError, ModelError, NonFiniteError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llreg.store.contents import Contents
    from llreg_extract import Source
    from llreg_schemas import Identity, RowRecord


def verify(
    registry: Contents,
    model: str,
    texts: int = 32,
    *,
    seed: int | None = None,
    path: str | Path | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> Agreement:
    """Score some of a row's texts again, and say whether the row is what its model gives.

    Behind `Registry.verify`, which describes parameters, result and errors.
    """
    record = registry.find(model)
    seed = secrets.randbits(32) if seed is None else seed
    words = f"{record.digest} {seed}"
    agreement = score_again(
        registry, record, texts, words, path=path, device=device, trust_remote_code=trust_remote_code
    )
    return replace(agreement, seed=seed)


def score_again(
    registry: Contents,
    record: RowRecord,
    texts: int,
    seed: str,
    *,
    path: str | Path | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    most_parameters: float | None = None,
) -> Agreement:
    """As `verify`, of a record at hand, with texts drawn by any words.

    Parameters
    ----------
    registry : Contents
    record : RowRecord
    texts : int
    seed : str
        Which texts: it should not be the contributor's to choose.
    path, device, trust_remote_code
        As in `Registry.verify`.
    most_parameters : float, optional
        A larger model is not downloaded.
    """
    if texts < 1:
        raise InputError(f"texts: expected at least 1; got {texts}")
    row, identity = registry.row(record.digest), record.identity
    sample = Sample(registry, row, draw_texts(registry, record, row.log_likelihood, texts, seed))
    # Code that the row was made without is not run, whatever is allowed.
    made_with_code = bool(record.provenance.get("trust_remote_code", True))
    trusted = trust_remote_code and made_with_code
    try:
        # The hash of a local model covers its code, if the row was made with it.
        if (identity.revision or "").startswith("sha256:") and made_with_code and not trusted:
            raise InputError(
                "the row was made with --trust-remote-code: give it here, too, if you trust the model's code"
            )
        source = find_source(identity, path, trust_remote_code=trusted)
        size = source.declared.get("num_parameters")
        if most_parameters is not None and size is not None and size > most_parameters:
            raise InputError(
                f"{source.name} has {size / 1e9:,.0f} billion parameters; models of up to {most_parameters / 1e9:,.0f} are scored"
            )
    except (ModelError, InputError, MissingExtraError) as error:
        return _unavailable(sample, error)
    _, device = llreg_extract.choose(source, device=device)  # not a matter of the row: raises
    try:
        llreg_extract.choose(source, dtype=identity.weight_dtype, device=device)
        agreement = Rescoring(sample, source, device, trust_remote_code=trusted).agreement()
    except (ModelError, InputError, MissingExtraError) as error:
        agreement = _unavailable(sample, error)
    return _judge_files(agreement, identity, source)


def _unavailable(sample: Sample, error: ModelError | InputError | MissingExtraError) -> Agreement:
    """The verdict where nothing can be scored."""
    if isinstance(error, MissingExtraError) and not isinstance(error, ModelError):
        raise error  # not of this model: nothing can be scored
    why = f"it cannot be scored here: {error}"
    if isinstance(error, NonFiniteError):
        why = f"here the model gives NaN or inf in {sample.record.identity.weight_dtype} for texts that the row has values of"
    return sample.agreement("inconclusive", "unavailable", why)


def draw_texts(registry: Contents, record: RowRecord, values: NDArray[np.floating], k: int, seed: str) -> list[int]:
    """Texts that are copied here and that the row has a value for, at random by the seed; all of them if they are few.

    Raises
    ------
    InputError
        If there is none.
    """
    candidates = np.flatnonzero(scorable(registry, record) & ~np.isnan(values))
    if not len(candidates):
        raise InputError(f"{record.row_id} has a value for none of the texts that are copied in this registry")
    rng = np.random.default_rng(int(sha256_text(seed), 16))
    return sorted(int(text) for text in rng.choice(candidates, min(k, len(candidates)), replace=False))


# The model


def find_source(identity: Identity, path: str | Path | None = None, *, trust_remote_code: bool = False) -> Source:
    """The model that a row names, or the files that are given for it.

    Raises
    ------
    InputError
        If the row's model was not on the Hub, and no files are given.
    ModelError, MissingExtraError
        As `llreg_extract.resolve`.
    """
    if path is None:
        if identity.source != "hub":
            origin = "imported" if identity.source == "imported" else "made from files on somebody's machine"
            raise InputError(f"the row was {origin}: give the model's files with --model")
        return llreg_extract.resolve_identity(identity, trust_remote_code=trust_remote_code)
    # A file inside what is given; an adapter's base is pinned by the row, where it is on the Hub.
    file = identity.file if identity.file and Path(path).is_dir() else None
    base = f"{identity.model}@{identity.revision}" if identity.adapter and identity.source == "hub" else None
    return llreg_extract.resolve(
        str(Path(path) / file if file else path),
        subfolder=None if file else identity.subfolder,
        base=base,
        quantize=quantize_of(identity.quantization),
        trust_remote_code=trust_remote_code,
    )


def _judge_files(agreement: Agreement, identity: Identity, source: Source) -> Agreement:
    """A verdict on values, and first of all whether these are the row's own files."""
    difference = file_difference(identity, source)
    if difference:
        outcome = agreement.comparison.outcome if agreement.comparison else None
        values = {
            "match": "their values are the same all the same, as far as can be seen",
            "mismatch": f"their values are others, too: {agreement.why}",
            "inconclusive": f"whether their values are the same stays open: {agreement.why.removeprefix('it stays open: ')}",
        }.get(outcome or "", agreement.why)
        why = f"these are not the row's files: {difference}; {values}"
        return replace(agreement, outcome="mismatch", cause="files", why=why)
    if identity.source != source.kind and agreement.outcome == "match":
        reason = "a commit cannot be told from a copy of its files"
        if identity.source == "imported":
            reason = "the row does not name its files"
        return replace(agreement, why=f"{agreement.why}; that these are its files is not shown ({reason})")
    return agreement


def file_difference(identity: Identity, source: Source) -> str:
    """What the files are otherwise than a row's identity says, in words; "" if nothing, or if that cannot be told."""
    if identity.source == "imported":
        return ""
    row_identity, file_identity = identity.to_json(), source.identity
    comparable = row_identity["source"] == file_identity["source"]  # else a commit would be compared with a hash
    words = {"revision": "commit" if file_identity["source"] == "hub" else "sha256", "file": "file"}
    words |= {"subfolder": "folder", "quantization": "quantisation"}
    for field, word in words.items():
        if row_identity[field] != file_identity[field] and (comparable or field == "quantization"):
            return f"{word} {_short(file_identity[field])}, and the row says {_short(row_identity[field])}"
    adapters = [(adapter or {}).get("revision") for adapter in (row_identity["adapter"], file_identity["adapter"])]
    if adapters[0] != adapters[1] and len({str(adapter).startswith("sha256:") for adapter in adapters}) == 1:
        return f"adapter {_short(adapters[1])}, and the row says {_short(adapters[0])}"
    return ""


def _short(value: Any) -> str:
    text = str(value or "none").removeprefix("sha256:")
    return f"{text[:12]}…" if len(text) in (40, 64) else text
