"""What exactly would be measured, and whether it is there already: known before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import llreg_extract
from llreg._version import __version__
from llreg.add.journal import Journal
from llreg.add.request import Options, Request
from llreg.store.layout import RUNS
from llreg_schemas import Identity, RowRecord, hash_json
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from llreg.store.contents import Contents


@dataclass(frozen=True)
class Pinned:
    """A model's content, the dtype and device it will be scored in, and the identity of its row."""

    source: llreg_extract.Source
    dtype: str
    device: str
    identity: Identity


def pin(registry: Contents, request: Request, *, gpus: int | None = None) -> Pinned:
    """Find a model and decide what its row will be; nothing is loaded.

    Parameters
    ----------
    registry : Contents
    request : Request
    gpus : int, optional
        GPUs of the machine that will score it; those of this one if not given.

    Raises
    ------
    ModelError, InputError
        As `llreg_extract.resolve` and `llreg_extract.choose`.
    """
    options = request.options
    source = llreg_extract.resolve(
        request.model,
        revision=options.revision,
        name=options.name,
        subfolder=options.subfolder,
        base=options.base,
        quantize=options.quantize,
        trust_remote_code=options.trust_remote_code,
    )
    dtype, device = llreg_extract.choose(source, dtype=options.dtype, device=options.device, gpus=gpus)
    identity = Identity(
        **source.identity,
        weight_dtype=dtype,
        text_set=registry.info.text_set.id,
        protocol=registry.info.protocol_id,
        subset=None if request.subset is None else request.subset["id"],
    )
    return Pinned(source, dtype, device, identity)


def find_present(registry: Contents, identity: Identity, options: Options) -> RowRecord | None:
    """The row that is there already, unless it must be (partly) scored again.

    For a subset of the texts also a row of all of them, which holds its values.

    Raises
    ------
    InputError
        If it was retracted.
    """
    if options.overwrite == "always":
        return None
    there = registry.replicates(identity)
    if not there:
        _refuse_retracted(registry, identity)
        full = registry.replicates(replace(identity, subset=None)) if identity.subset else []
        return full[-1] if full else None
    if options.overwrite == "only-missing" and _lacks_texts(registry, there[-1]):
        return None
    return there[-1]


def _refuse_retracted(registry: Contents, identity: Identity) -> None:
    retractions = registry.retractions()
    if not retractions:
        return
    for record in registry.all_records().values():
        if record.digest in retractions and record.identity.id == identity.id:
            raise InputError(
                f"{record.row_id} was retracted ({retractions[record.digest]['why']}); to measure it again all the same: "
                "--overwrite always"
            )


def _lacks_texts(registry: Contents, record: RowRecord) -> bool:
    """Whether a row lacks texts for no reason of the model's own, such as a context too short for them."""
    import numpy as np

    from llreg.store.subsets import load_subset

    values = registry.row(record.row_id).log_likelihood
    reasons = ("over_context", "non_finite", "unscored")
    explained = sum(int(record.provenance.get(name, 0)) for name in reasons)
    if record.identity.subset is not None:
        values = values[load_subset(registry, record.identity.subset)["texts"]]
    return int(np.isnan(values).sum()) > explained


def runs_dir(root: Path) -> Path:
    """Where a registry keeps unfinished runs."""
    return root / RUNS


def journal_of(registry: Contents, pinned: Pinned, options: Options) -> Journal:
    """The journal of a run: values of other library versions or another device must not be mixed into it."""
    from importlib.metadata import version

    packages = ("torch", "transformers", *llreg_extract.packages(pinned.source))
    parts = {
        "device": pinned.device,
        "again": options.overwrite == "always",
        "libraries": [__version__, *(version(package).partition("+")[0] for package in packages)],
        "remote_code": options.trust_remote_code,
    }
    return Journal(runs_dir(registry.path) / f"{pinned.identity.id[:24]}-{hash_json(parts)[:12]}.journal")
