"""From a model name to log-likelihoods: the only package of llreg that uses torch and transformers.

::

    source = resolve("org/name")              # pinned: commit or hash, nothing loaded
    dtype, device = choose(source)            # decided, nothing loaded
    model = load(source, dtype=dtype, device=device)
    for batch in iter_scores(model, encode(model, texts)):
        ...

Importing this package loads neither torch nor transformers; the first call that needs them does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llreg_extract.files.cache import Revision, evict, fetch, is_cached, revisions
    from llreg_extract.files.hub import cache_folder
    from llreg_extract.find.commits import has_same_files
    from llreg_extract.find.resolve import resolve, resolve_identity
    from llreg_extract.loading.device import DeviceMemory, choose, count_gpus, device_memory
    from llreg_extract.loading.load import environment, load, load_tokenizer
    from llreg_extract.loading.quantization import packages
    from llreg_extract.measure.needs import Needs, needs
    from llreg_extract.model import Model
    from llreg_extract.scoring.batches import default_batch_tokens
    from llreg_extract.scoring.encoding import Encoded, check_range, encode, tokenise
    from llreg_extract.scoring.pairs import encode_pairs, prompt_provenance, score_pairs, tokenise_pairs
    from llreg_extract.scoring.reference import reference_scores
    from llreg_extract.scoring.scores import Batch, Scores, Status, iter_scores, score
    from llreg_extract.source import Adapter, FileStamp, Source, check_unchanged, suggest_name

__all__ = [
    "Adapter",
    "Batch",
    "DeviceMemory",
    "Encoded",
    "FileStamp",
    "Model",
    "Needs",
    "Revision",
    "Scores",
    "Source",
    "Status",
    "cache_folder",
    "check_range",
    "check_unchanged",
    "choose",
    "count_gpus",
    "default_batch_tokens",
    "device_memory",
    "encode",
    "encode_pairs",
    "environment",
    "evict",
    "fetch",
    "has_same_files",
    "is_cached",
    "iter_scores",
    "load",
    "load_tokenizer",
    "needs",
    "packages",
    "prompt_provenance",
    "reference_scores",
    "resolve",
    "resolve_identity",
    "revisions",
    "score",
    "score_pairs",
    "suggest_name",
    "tokenise",
    "tokenise_pairs",
]

# The same names by the module that has them: torch and transformers must not load before one of them is used.
_NAMES = {
    "files.cache": ("Revision", "evict", "fetch", "is_cached", "revisions"),
    "files.hub": ("cache_folder",),
    "find.commits": ("has_same_files",),
    "find.resolve": ("resolve", "resolve_identity"),
    "loading.device": ("DeviceMemory", "choose", "count_gpus", "device_memory"),
    "loading.load": ("environment", "load", "load_tokenizer"),
    "loading.quantization": ("packages",),
    "measure.needs": ("Needs", "needs"),
    "model": ("Model",),
    "scoring.batches": ("default_batch_tokens",),
    "scoring.encoding": ("Encoded", "check_range", "encode", "tokenise"),
    "scoring.pairs": ("encode_pairs", "prompt_provenance", "score_pairs", "tokenise_pairs"),
    "scoring.reference": ("reference_scores",),
    "scoring.scores": ("Batch", "Scores", "Status", "iter_scores", "score"),
    "source": ("Adapter", "FileStamp", "Source", "check_unchanged", "suggest_name"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import the module behind a public name when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
