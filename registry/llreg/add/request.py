"""What `add` is asked for: models, each with its options, checked before anything is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llreg import settings
from llreg.store.subsets import load_subset
from llreg_schemas.errors import InputError

if TYPE_CHECKING:
    from llreg.store.contents import Contents

Overwrite = Literal["never", "only-missing", "always"]
OVERWRITE: tuple[Overwrite, ...] = ("never", "only-missing", "always")
Entry = str | Mapping[str, Any]


@dataclass(frozen=True)
class Options:
    """How to compute rows.

    Attributes
    ----------
    revision : str or None
        Branch, tag or commit on the Hub; resolved to a commit before anything is loaded.
    name : str or None
        Name of a local model.
    dtype, device : str
        "auto": float32 on a CPU, the checkpoint's own dtype on a GPU.
    overwrite : {"never", "only-missing", "always"}
        What to do about a row that is there: leave it; score only the texts it lacks; score all again.
    batch_tokens : int or None
        Tokens in a batch; None chooses by device.
    trust_remote_code : bool
        Run Python code from the model's repository.
    subfolder : str or None
        Folder inside the repository or directory that has the model's files.
    base : str or None
        Base model of a PEFT adapter; None: the one that its adapter_config.json names.
    quantize : {"int8", "int4"} or None
        Pack the weights when they are loaded.
    subset : str, path, mapping or None
        A text subset, by its file, document or id: only its texts are scored. See `Registry.subset`.
    """

    revision: str | None = None
    name: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    overwrite: Overwrite = "only-missing"
    batch_tokens: int | None = None
    trust_remote_code: bool = False
    subfolder: str | None = None
    base: str | None = None
    quantize: str | None = None
    subset: str | Path | Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Request:
    """One model to be added.

    Attributes
    ----------
    model : str
        As it was given.
    options : Options
    subset : mapping or None
        The document of the text subset that the options name, checked.
    """

    model: str
    options: Options
    subset: Mapping[str, Any] | None


def read_requests(registry: Contents, models: Sequence[Entry], options: Mapping[str, Any]) -> list[Request]:
    """What is asked for, one a model.

    Parameters
    ----------
    registry : Contents
    models : sequence of str or mapping
        Models, or mappings with a `model` and options of its own, which go before `options`.
    options : mapping
        Fields of `Options`, for all models.

    Raises
    ------
    InputError
        If an option is unknown, or options do not fit together or with the registry.
    """
    registry.check_changeable("add to it")
    for name in ("name", "revision"):
        if options.get(name) is not None and len(models) > 1:
            raise InputError(f"{name} goes with one model; got {len(models)}: add them one at a time")
    contributor = settings.contributor()
    if contributor is not None and (not contributor.isprintable() or len(contributor) > 200):
        raise InputError("LLREG_CONTRIBUTOR: expected one printable line of at most 200 characters")
    subsets: dict[Any, Mapping[str, Any]] = {}  # each loaded once, by its id or file
    requests = []
    for model, model_options in [_read_entry(entry, options) for entry in models]:
        subset = model_options.subset
        if subset is None:
            requests.append(Request(model, model_options, None))
            continue
        key = id(subset) if isinstance(subset, Mapping) else str(subset)
        if key not in subsets:
            subsets[key] = load_subset(registry, subset)
        requests.append(Request(model, model_options, subsets[key]))
    return requests


def _read_entry(entry: Entry, common: Mapping[str, Any]) -> tuple[str, Options]:
    """A model, and its options: its own go before those for all."""
    own_values = {"model": entry} if isinstance(entry, str) else dict(entry)
    model = own_values.pop("model", None)
    if not isinstance(model, str) or not model:
        raise InputError(f"expected a model's name, or a mapping with a 'model'; got {entry!r:.60}")
    values = {**common, **own_values}
    for key in values:
        check_key(key, [field.name for field in fields(Options)], "option")
    options = Options(**values)
    if options.overwrite not in OVERWRITE:
        raise InputError(f"overwrite: expected one of {', '.join(OVERWRITE)}; got {options.overwrite!r}")
    if options.batch_tokens is not None and options.batch_tokens < 1:
        raise InputError(f"batch_tokens: expected at least 1; got {options.batch_tokens}")
    return model, options


def check_key(key: str, known: Sequence[str], noun: str) -> None:
    """Refuse a key that is none of the known ones, naming the nearest.

    Raises
    ------
    InputError
    """
    if key in known:
        return
    near = get_close_matches(key.replace("-", "_").lower(), known, n=1, cutoff=0.55)
    advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    raise InputError(f"no {noun} {key[:60]!r}: {advice}")


def check_texts(registry: Contents, requests: Sequence[Request]) -> None:
    """Check that the texts to be scored are copied in the registry.

    Raises
    ------
    NotFoundError
    """
    for subset in {str(request.subset["id"]): request.subset for request in requests if request.subset}.values():
        registry.texts.complete(subset["texts"])
    if any(request.subset is None for request in requests):
        registry.texts.complete()
