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
    from llreg_extract.encoding import Encoded, encode
    from llreg_extract.hub import cache_folder
    from llreg_extract.model import Model, choose, environment, load
    from llreg_extract.needs import DeviceMemory, Needs, device_memory, needs
    from llreg_extract.reference import reference_scores
    from llreg_extract.resolve import resolve
    from llreg_extract.scoring import Batch, Scores, Status, default_batch_tokens, iter_scores, score
    from llreg_extract.source import Source

__all__ = [
    "Batch",
    "DeviceMemory",
    "Encoded",
    "Model",
    "Needs",
    "Scores",
    "Source",
    "Status",
    "cache_folder",
    "choose",
    "default_batch_tokens",
    "device_memory",
    "encode",
    "environment",
    "iter_scores",
    "load",
    "needs",
    "reference_scores",
    "resolve",
    "score",
]

_MODULES = {
    "Batch": "scoring",
    "DeviceMemory": "needs",
    "Encoded": "encoding",
    "Model": "model",
    "Needs": "needs",
    "Scores": "scoring",
    "Source": "source",
    "Status": "scoring",
    "cache_folder": "hub",
    "choose": "model",
    "default_batch_tokens": "scoring",
    "device_memory": "needs",
    "encode": "encoding",
    "environment": "model",
    "iter_scores": "scoring",
    "load": "model",
    "needs": "needs",
    "reference_scores": "reference",
    "resolve": "resolve",
    "score": "scoring",
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
