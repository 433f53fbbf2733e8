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
    from llreg_extract.files.fetching import Revision, evict, fetch, is_cached, revisions
    from llreg_extract.files.hub import cache_folder
    from llreg_extract.files.quantize import packages
    from llreg_extract.find.resolve import resolve, resolve_identity
    from llreg_extract.loading.model import Model, choose, count_gpus, environment, load, load_tokenizer
    from llreg_extract.measure.needs import DeviceMemory, Needs, device_memory, needs
    from llreg_extract.scoring.encoding import Encoded, check_range, encode, tokenise
    from llreg_extract.scoring.pairs import encode_pairs, prompt_provenance, score_pairs, tokenise_pairs
    from llreg_extract.scoring.reference import reference_scores
    from llreg_extract.scoring.scores import Batch, Scores, Status, default_batch_tokens, iter_scores, score
    from llreg_extract.source import Adapter, Source

__all__ = [
    "Adapter",
    "Batch",
    "DeviceMemory",
    "Encoded",
    "Model",
    "Needs",
    "Revision",
    "Scores",
    "Source",
    "Status",
    "cache_folder",
    "check_range",
    "choose",
    "count_gpus",
    "default_batch_tokens",
    "device_memory",
    "encode",
    "encode_pairs",
    "environment",
    "evict",
    "fetch",
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
    "tokenise",
    "tokenise_pairs",
]

_MODULES = {
    "Adapter": "source",
    "Batch": "scoring.scores",
    "DeviceMemory": "measure.needs",
    "Encoded": "scoring.encoding",
    "Model": "loading.model",
    "Needs": "measure.needs",
    "Revision": "files.fetching",
    "Scores": "scoring.scores",
    "Source": "source",
    "Status": "scoring.scores",
    "cache_folder": "files.hub",
    "check_range": "scoring.encoding",
    "choose": "loading.model",
    "count_gpus": "loading.model",
    "default_batch_tokens": "scoring.scores",
    "device_memory": "measure.needs",
    "encode": "scoring.encoding",
    "encode_pairs": "scoring.pairs",
    "environment": "loading.model",
    "evict": "files.fetching",
    "fetch": "files.fetching",
    "is_cached": "files.fetching",
    "iter_scores": "scoring.scores",
    "load": "loading.model",
    "load_tokenizer": "loading.model",
    "needs": "measure.needs",
    "packages": "files.quantize",
    "prompt_provenance": "scoring.pairs",
    "reference_scores": "scoring.reference",
    "resolve": "find.resolve",
    "resolve_identity": "find.resolve",
    "revisions": "files.fetching",
    "score": "scoring.scores",
    "score_pairs": "scoring.pairs",
    "tokenise": "scoring.encoding",
    "tokenise_pairs": "scoring.pairs",
}


def __getattr__(name: str) -> Any:
    """Import the module behind a public name when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
