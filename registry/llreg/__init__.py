"""llreg: a registry of language models as log-likelihood vectors.

>>> import llreg
>>> reg = llreg.open("path/to/registry")        # doctest: +SKIP
>>> reg.dataset()                               # doctest: +SKIP
>>> reg.kl(models=["gpt2", "gpt2-medium"])      # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llreg.hub.sync.pull import clone as pull
    from llreg.locate import init as init
    from llreg.locate import open_registry as open
    from llreg.registry import Registry as Registry
    from llreg.store.rowfile import Row as Row
    from llreg.texts.textset import TextSet as TextSet
    from llreg.texts.textset import load_texts as load_texts
    from llreg_schemas.errors import LlregError as LlregError

from llreg._version import __version__

__all__ = ["LlregError", "Registry", "Row", "TextSet", "__version__", "init", "load_texts", "open", "pull"]

# Attached on first use, so that `import llreg` and `llreg --help` load no numpy, zarr or xarray.
_LAZY = {
    "LlregError": ("llreg_schemas.errors", "LlregError"),
    "Registry": ("llreg.registry", "Registry"),
    "Row": ("llreg.store.rowfile", "Row"),
    "TextSet": ("llreg.texts.textset", "TextSet"),
    "init": ("llreg.locate", "init"),
    "load_texts": ("llreg.texts.textset", "load_texts"),
    "open": ("llreg.locate", "open_registry"),
    "pull": ("llreg.hub.sync.pull", "clone"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'llreg' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _LAZY[name]
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
