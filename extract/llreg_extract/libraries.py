"""Around calls of optional libraries: whether they are installed, keeping them quiet, and reading their errors."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

from llreg_schemas.errors import MissingExtraError, MissingLibraryError


def require(*packages: str) -> None:
    """Check that optional packages are installed, without importing them.

    Raises
    ------
    MissingExtraError
        Names the first one that is not.
    """
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(package, "extract")


def require_for_model(package: str, extra: str = "extract") -> None:
    """Check that a package is installed that one model needs and others do not.

    Raises
    ------
    MissingLibraryError
        It is not.
    """
    if find_spec(package) is None:
        raise MissingLibraryError(package, extra)


_TALKATIVE = ("accelerate", "bitsandbytes", "compressed_tensors", "peft")  # loggers of optional libraries
# The libraries' settings are global: the first of the threads inside saves them, the last one out restores them.
_lock, _inside, _saved = threading.Lock(), 0, ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' progress bars, log lines and warnings off the terminal, then put all back."""
    global _inside, _saved
    with _lock:
        _inside += 1
        if _inside == 1:
            _saved = _silence()
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _saved.close()


def _silence() -> ExitStack:
    """Silence the libraries; closing the result puts back what was set before."""
    import huggingface_hub.utils
    from transformers.utils import logging as transformers_logging

    hub: Any = huggingface_hub.utils
    stack = ExitStack()
    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    for library in (hub.logging, transformers_logging):
        stack.callback(library.set_verbosity, library.get_verbosity())
        library.set_verbosity(logging.CRITICAL)
    for logger in map(logging.getLogger, _TALKATIVE):
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)
    # transformers switches the Hub's bars along with its own, so the Hub's are put back last.
    stack.callback(hub.disable_progress_bars if hub.are_progress_bars_disabled() else hub.enable_progress_bars)
    if transformers_logging.is_progress_bar_enabled():
        stack.callback(transformers_logging.enable_progress_bar)
    transformers_logging.disable_progress_bar()
    return stack


# Errors that libraries raise with a sentence; of any other the message alone may be a bare "'key'".
_TELLING = (ValueError, OSError, RuntimeError, ImportError)


def first_line(error: BaseException) -> str:
    """First non-empty line of an error's message, at most 300 characters; its type where that says more."""
    lines = (line.strip() for line in str(error).splitlines())
    line = next((line for line in lines if line), "")
    kind = type(error).__name__
    if not line:
        return kind
    return (line if isinstance(error, _TELLING) else f"{kind}: {line}")[:300]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, on the GPU or the host, did not suffice."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # torch's allocator for CPUs, and the libraries of CUDA, raise plain RuntimeErrors.
    phrases = ("can't allocate memory", "CUDA error: out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in phrases)
