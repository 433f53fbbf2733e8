"""Faster kernels on a CPU: float32 matrix products through oneDNN, and causal attention in blocks.

Attention in blocks of queries against the keys up to the block's end: torch's own kernel takes 18 % of a forward pass of
SmolLM2-135M on texts of 300 tokens, though attention is 4 % of the arithmetic; plain matrix products take a quarter of that.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "llreg_blocked"  # of the attention, as transformers and provenance have it
_BLOCK = 128  # queries
# Arguments of transformers' attention functions that change nothing when they are None, False or 0.
_NEUTRAL = ("sliding_window", "softcap", "s_aux", "position_bias", "cache", "output_attentions", "dropout")
# With these all the arguments that may be there; an unknown one may change the values.
_KNOWN = frozenset(
    (*_NEUTRAL, "position_ids", "use_cache", "cache_position", "past_key_values", "return_dict", "output_hidden_states")
)


@contextmanager
def fast_products(device_type: str) -> Iterator[None]:
    """Within, float32 products on a CPU go where they are fastest without losing accuracy; then all is as before.

    On processors of AMD torch's default, MKL, is slower than oneDNN (SmolLM2's shapes: 7 to 20 % on a Zen 4, a factor of 2
    on a Zen 5). The setting that sends products to oneDNN also allows it less precise arithmetic, which it uses where the
    processor has instructions for that: so an error is measured first. Times are not: they would make the choice, and with
    it the last digits of a row, a matter of chance.
    """
    if device_type == "cpu" and _onednn_is_better():
        with _onednn():
            yield
    else:
        yield


@contextmanager
def _onednn() -> Iterator[None]:
    """Within, float32 products on a CPU go to oneDNN."""
    import torch

    settings: Any = getattr(torch.backends.mkldnn, "matmul")  # noqa: B009 - torch's stubs lack it
    precision = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = precision


@cache
def _onednn_is_better() -> bool:
    """Whether oneDNN can be chosen, is the faster library on this processor, and as accurate."""
    import torch

    settings, mkl = getattr(torch.backends.mkldnn, "matmul", None), torch.backends.mkl
    if not hasattr(settings, "fp32_precision") or not mkl.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        processor = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        processor = platform.processor()
    if "AuthenticAMD" not in processor:
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(256, 1024, generator=generator), torch.randn(1024, 256, generator=generator)
    exact = a.double() @ b.double()
    with _onednn():
        error = float((a @ b - exact).norm() / exact.norm())
    return error < 1e-6  # float32 gives 2e-7, TF32 3e-4, bfloat16 2e-3


@cache
def register() -> str:
    """Make the attention known to transformers; its name, for ``set_attn_implementation``."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, blocked_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)  # None where the mask is the plain causal one
    return NAME


def blocked_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in the form that transformers calls; what is not plain causal self-attention goes to its own sdpa.

    Parameters
    ----------
    module : torch.nn.Module
        The attention layer.
    query : float tensor of shape (batch, heads, text, dim)
    key, value : float tensors of shape (batch, key_heads, text, dim)
        `heads` is a multiple of `key_heads`.
    attention_mask : tensor or None
        None: causal.
    scaling : float, optional
        Of the products of queries and keys; 1 / sqrt(dim) if not given.
    is_causal : bool, optional
        As the layer says if not given.
    **options
        What transformers passes besides.

    Returns
    -------
    output : float tensor of shape (batch, text, heads, dim)
    weights : None
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if attention_mask is not None or not causal or not _is_plain(query, key, value, options):
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal, **options
        )
        return output, None
    return _attend(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling), None


def _is_plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: dict[str, Any]) -> bool:
    """Whether attention is causal self-attention of a whole text, with nothing that changes its values."""
    import torch

    window, length = options.get("sliding_window"), query.shape[2]
    # No mask and a window that the text does not fill: transformers leaves the mask out just then.
    window_fits = isinstance(window, int) and length <= window
    unusual = [options.get(name) for name in _NEUTRAL if not (name == "sliding_window" and window_fits)]
    return (
        length == key.shape[2] == value.shape[2]
        and query.shape[1] % key.shape[1] == 0
        and not any(isinstance(option, torch.Tensor) or option for option in unusual)
        and _KNOWN.issuperset(options)
    )


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """softmax(QK'/s + causal mask)V by blocks of queries; grouped heads share keys and values without copies of them."""
    import torch

    batch, heads, length, dim = query.shape
    groups, shared = key.shape[1], heads // key.shape[1]
    keys = key.reshape(batch * groups, length, dim).transpose(1, 2)  # (batch * groups, dim, text)
    values = value.reshape(batch * groups, length, value.shape[-1])  # (batch * groups, text, dim)
    queries = (query * scaling).reshape(batch * groups, shared, length, dim)
    output = query.new_empty(batch, length, heads, value.shape[-1])
    for start in range(0, length, _BLOCK):
        end = min(start + _BLOCK, length)
        # All query heads of a group stand below each other in one product: (batch * groups, shared * block, dim).
        block = queries[:, :, start:end].reshape(batch * groups, shared * (end - start), dim)
        scores = torch.bmm(block, keys[:, :, :end]).view(batch * groups, shared, end - start, end)
        scores[..., start:].masked_fill_(_future(end - start, scores.device), -torch.inf)
        weights = torch.softmax(scores, -1).view(batch * groups, shared * (end - start), end)
        attended = torch.bmm(weights, values[:, :end]).view(batch, heads, end - start, -1)
        output[:, start:end] = attended.transpose(1, 2)
    return output


@cache
def _future(size: int, device: torch.device) -> torch.Tensor:
    """bool of shape (query, key): the keys of a diagonal block that a query must not see."""
    import torch

    with torch.inference_mode(False):
        return torch.ones(size, size, dtype=torch.bool, device=device).triu_(1)
