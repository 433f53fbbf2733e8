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
    from llreg_extract.encoding import Encoded, check_range, encode, tokenise
    from llreg_extract.fetching import Revision, evict, fetch, is_cached, revisions
    from llreg_extract.hub import cache_folder
    from llreg_extract.model import Model, choose, count_gpus, environment, load, load_tokenizer
    from llreg_extract.needs import DeviceMemory, Needs, device_memory, needs
    from llreg_extract.pairs import encode_pairs, prompt_provenance, score_pairs, tokenise_pairs
    from llreg_extract.quantize import packages
    from llreg_extract.reference import reference_scores
    from llreg_extract.resolve import resolve, resolve_identity
    from llreg_extract.scoring import Batch, Scores, Status, default_batch_tokens, iter_scores, score
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
    "Batch": "scoring",
    "DeviceMemory": "needs",
    "Encoded": "encoding",
    "Model": "model",
    "Needs": "needs",
    "Revision": "fetching",
    "Scores": "scoring",
    "Source": "source",
    "Status": "scoring",
    "cache_folder": "hub",
    "check_range": "encoding",
    "choose": "model",
    "count_gpus": "model",
    "default_batch_tokens": "scoring",
    "device_memory": "needs",
    "encode": "encoding",
    "encode_pairs": "pairs",
    "environment": "model",
    "evict": "fetching",
    "fetch": "fetching",
    "is_cached": "fetching",
    "iter_scores": "scoring",
    "load": "model",
    "load_tokenizer": "model",
    "needs": "needs",
    "packages": "quantize",
    "prompt_provenance": "pairs",
    "reference_scores": "reference",
    "resolve": "resolve",
    "resolve_identity": "resolve",
    "revisions": "fetching",
    "score": "scoring",
    "score_pairs": "pairs",
    "tokenise": "encoding",
    "tokenise_pairs": "pairs",
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
