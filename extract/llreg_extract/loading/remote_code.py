"""Models of code from their checkpoint: what transformers does not load and their code computes is put in.

transformers 5 builds every model without memory, loads what the files hold, and gives what is not stored memory as it comes:
its own classes fill that themselves, code from elsewhere was never told to. Some such code also draws weights anew that were
loaded. Here buffers come from a second building of the model with real memory for them, and every weight is compared with the
files'.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from llreg_extract.files.tensors import StoredTensor
from llreg_schemas.errors import UnsupportedModelError


def is_remote(module: Any) -> bool:
    """Whether a model's class is not one of transformers' own."""
    return not type(module).__module__.startswith("transformers.")


def restore(
    module: Any, stored: Mapping[str, StoredTensor], taken: Mapping[str, str], name: str, dtype: Any
) -> set[str]:
    """Give a loaded model the buffers that its code computes, and the weights that its files hold.

    Parameters
    ----------
    module : torch.nn.Module
        It is changed.
    stored : mapping of str to StoredTensor
        The tensors of the files.
    taken : mapping of str to str
        Names in the model by those in the files.
    name : str
        The model, for messages.
    dtype : torch.dtype
        It was loaded in.

    Returns
    -------
    set of str
        Names of the buffers.

    Raises
    ------
    UnsupportedModelError
        Its code computes a buffer that is another one each time.
    """
    import torch

    from_files = set(taken.values())
    first, second = _build(module, dtype), _build(module, dtype)
    names = [key for key, _ in first.named_buffers(remove_duplicate=False) if key not in from_files]
    if not _have_same(first, second, names):
        # Memory that is only reserved differs too; it is told from random numbers by being filled.
        with _filled_memory():
            first, second = _build(module, dtype), _build(module, dtype)
    for key in names:
        if not _have_same(first, second, [key]):
            raise UnsupportedModelError(
                f"{name}: its code makes the buffer {key} of random numbers, and its files do not hold it, so that each loading "
                "gives another model: save it with that buffer"
            )
    with torch.no_grad():
        for key in names:
            owner, _, ending = key.rpartition(".")
            own = module.get_submodule(owner)
            value = first.get_buffer(key).to(module.device)
            own._buffers[ending] = value
        # What code keeps beside its buffers has no memory at all.
        for path, own in module.named_modules():
            for attribute, value in vars(own).items():
                if isinstance(value, torch.Tensor) and value.is_meta:
                    setattr(own, attribute, getattr(first.get_submodule(path), attribute).to(module.device))
        tensors = module.state_dict()
        for key, own_name in taken.items():
            value, own = stored[key].read(), tensors[own_name]
            if value.shape == own.shape and not torch.equal(value.to(own.dtype), own.cpu()):
                own.copy_(value)
    return set(names)


def _build(module: Any, dtype: Any) -> Any:
    """A model like another, with memory for its buffers only; where its code needs more, with all of it."""
    import torch
    from accelerate import init_empty_weights

    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        try:
            with init_empty_weights(include_buffers=False):
                built = type(module)(copy.deepcopy(module.config))
            if not any(buffer.is_meta for buffer in built.buffers()):
                return built
        except (RuntimeError, NotImplementedError):  # what reads a value that is not there
            pass
        return type(module)(copy.deepcopy(module.config))
    finally:
        torch.set_default_dtype(default)


def _have_same(first: Any, second: Any, names: list[str]) -> bool:
    import torch

    for name in names:
        a, b = first.get_buffer(name), second.get_buffer(name)
        if a.shape != b.shape or not torch.allclose(a, b, rtol=0, atol=0, equal_nan=True):
            return False
    return True


@contextmanager
def _filled_memory() -> Iterator[None]:
    """Have torch fill memory that is reserved, with NaN or the largest integer."""
    import torch

    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
