"""The head of a causal model where it is needed, through the model's own code.

A causal language model of transformers is a base model and a head; what stands between them (bias, scale, softcap, a
further layer) differs from architecture to architecture, and code of our own for it is wrong for many. So the model's own
``forward`` is run twice: once until its base model has hidden states, and then, with the base model handing back a few of
them, for the logits of just these. Outside `hidden_states` and `head` the module behaves as ever.
"""

from __future__ import annotations

import copy
import inspect
import threading
from functools import cache
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_VOCABULARY_BLOCK = 8192  # rows of a 16-bit head that are widened at a time
_state = threading.local()  # of the thread: the base model that is asked, and what it shall hand back


class ReplayError(Exception):
    """The model is not built of a base model and a head in the way that a replay needs."""


class _Reached(Exception):
    """Carries the base model's output past the head."""

    def __init__(self, output: Any) -> None:
        self.output = output


def bases(module: Any) -> list[Any]:
    """What may be the base model of a causal language model of transformers: modules inside it."""
    import torch

    try:
        decoder = module.get_decoder()
    except Exception:  # noqa: BLE001 - a class that has none raises whatever it likes
        decoder = None
    modules: list[Any] = []
    for part in (getattr(module, "base_model", None), decoder, getattr(module, "model", None)):
        if isinstance(part, torch.nn.Module) and part is not module and not any(part is base for base in modules):
            modules.append(part)
    return modules


def install(module: Any, base: Any) -> None:
    """Make a model's base model able to hand back hidden states.

    Parameters
    ----------
    module, base : torch.nn.Module
        Causal language model of transformers, and one of its `bases`.
    """
    _wrap(base, _forward)


def widen(module: Any) -> None:
    """From now on have the head of a model in 16 bits, for which a base is installed, multiply in float32 in a replay."""
    import torch

    linear: Any = module.get_output_embeddings()
    if type(linear) is torch.nn.Linear and linear.weight.dtype in (torch.bfloat16, torch.float16):
        _wrap(linear, _linear)


def remove(module: Any) -> None:
    """Undo `install`."""
    for part in module.modules():
        if "_llreg_forward" in vars(part):
            original = vars(part).pop("_llreg_forward")
            del part.forward
            if part.forward != original:  # a hook of accelerate's, say, that was there before
                part.forward = original


def _wrap(part: Any, function: Any) -> None:
    # Methods, and not functions around them: a deep copy of the module gets ones of its own.
    part._llreg_forward = part.forward
    part.forward = MethodType(function, part)


def _forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Of a base model: as ever, unless this thread asks for its output, or has an output for it to hand back."""
    asked: Any = getattr(_state, "base", None)
    if asked is not self:
        return self._llreg_forward(*args, **kwargs)
    if _state.output is None:
        raise _Reached(self._llreg_forward(*args, **kwargs))
    return _state.output


def _linear(self: Any, states: torch.Tensor) -> torch.Tensor:
    """Of a head in 16 bits: products in float32 while a replay is on, since rounded logits would cost half a nat a text."""
    if getattr(_state, "output", None) is None:
        logits: torch.Tensor = self._llreg_forward(states)
        return logits
    return _float32_product(states, self.weight, self.bias)


def _float32_product(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """states @ weight' + bias in float32, of 16-bit states (..., hidden) and weights (vocabulary, hidden)."""
    import torch

    if states.is_cuda and states.dtype == weight.dtype and _keeps_sums(weight.dtype):
        flat = torch.mm(states.reshape(-1, states.shape[-1]), weight.T, out_dtype=torch.float32)
        product = flat.view(*states.shape[:-1], -1)
    else:
        wide = states.float()
        parts = [torch.nn.functional.linear(wide, rows.float()) for rows in torch.split(weight, _VOCABULARY_BLOCK)]
        product = torch.cat(parts, -1)
    return product if bias is None else product + bias.float()


@cache
def _keeps_sums(dtype: torch.dtype) -> bool:
    """Whether the GPU's product of 16-bit matrices comes in float32, in which it adds anyway: from torch 2.8 on."""
    import torch

    ones = torch.ones(16, 16, dtype=dtype, device="cuda")
    try:
        torch.mm(ones, ones, out_dtype=torch.float32)
    except (TypeError, RuntimeError):
        return False
    return True


def hidden_states(module: Any, base: Any, tokens: torch.Tensor, options: dict[str, Any]) -> Any:
    """Run a model up to its base model's output.

    Parameters
    ----------
    module, base : torch.nn.Module
        A model, and what `install` gave for it.
    tokens : int64 tensor of shape (batch, text)
    options : dict
        Further arguments of the model.

    Returns
    -------
    output
        The base model's output, whose hidden states are of shape (batch, text, hidden); see `states_of`.

    Raises
    ------
    ReplayError
        If the model does not run its base model, or that gives no such hidden states.
    """
    # The model runs until `_forward` of its base model raises: the head, which is large, never does.
    _state.base, _state.output = base, None
    try:
        module(input_ids=tokens, **options)
    except _Reached as reached:
        output = reached.output
    else:
        raise ReplayError("the model does not run its base model")
    finally:
        _state.base = None
    states = states_of(output)
    if states is None or states.ndim != 3 or states.shape[:2] != tokens.shape:
        raise ReplayError("the base model gives no hidden state a token")
    return output


def states_of(output: Any) -> Any:
    """The hidden states in a base model's output: tensor of shape (batch, text, hidden), or None."""
    states = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", None)
    return states if hasattr(states, "shape") else None


def head(
    module: Any, base: Any, output: Any, states: torch.Tensor, tokens: torch.Tensor, options: dict[str, Any]
) -> torch.Tensor:
    """Logits of some hidden states, by the model's own code.

    Parameters
    ----------
    module, base : torch.nn.Module
    output
        From `hidden_states`.
    states : float tensor of shape (token, hidden)
    tokens : int64 tensor of shape (token,)
        Ids of as many tokens; only their number matters.
    options : dict
        As for `hidden_states`.

    Returns
    -------
    float tensor of shape (token, vocabulary)
    """
    # The base model's output with these states in place of all: one text of as many tokens.
    if isinstance(output, tuple):
        output = (states[None], *output[1:])
    else:
        output = copy.copy(output)
        output.last_hidden_state = states[None]
    _state.base, _state.output = base, output
    try:
        logits: torch.Tensor = module(input_ids=tokens[None], **options).logits
    finally:
        _state.base = _state.output = None
    if logits.ndim != 3 or logits.shape[:2] != (1, len(states)):
        raise ReplayError("the head gives no logits a token")
    return logits[0]


def call_options(module: Any) -> dict[str, Any]:
    """Arguments that spare a model work which scoring does not need."""
    parameters = inspect.signature(module.forward).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return {"use_cache": False} if takes_any or "use_cache" in parameters else {}
