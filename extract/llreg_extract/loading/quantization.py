"""Quantised weights: whether a checkpoint's method runs here, and packing a checkpoint's weights when it is loaded.

Where there is a choice, llreg scores the weights and leaves activations whole. bitsandbytes' own int8 product (LLM.int8(),
Dettmers et al., arXiv 2208.07339) finds outliers in all tokens that go through a layer at once, so that a prediction
depends on later tokens and on the other texts of the batch; here its weights are unpacked for each product instead.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from types import MethodType
from typing import Any

from llreg_extract.libraries import first_line, quiet, require_for_model
from llreg_extract.source import Source
from llreg_schemas.errors import ModelError, UnsupportedModelError

# Bytes a packed parameter takes: with a float32 scale for each block of 64 where there are 4 bits (one a row is nothing).
_PACKED_BYTES = {"int8": 1.0, "int4": 0.5 + 4 / 64}
# Modules that a method needs. Of other methods transformers says what is missing.
_MODULES = {
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed_tensors",),
    "gptq": ("optimum", "gptqmodel"),
    "torchao": ("torchao",),
}
_UNPACKED = ("compressed-tensors", "fp8")  # unpacked once, while they are loaded
_KERNELS = {"mxfp4": ("kernels", "triton")}  # unpacked so too where these are not installed


def packed_bytes(source: Source, dtype_bytes: int, parameters: int) -> int:
    """Bytes that the weights of a source take once `source.quantize` has packed them; all of them where it is not known."""
    packed = source.packed_parameters or 0
    return int((parameters - packed) * dtype_bytes + packed * _PACKED_BYTES[source.quantize or "int8"])


def stays_packed(source: Source) -> bool:
    """Whether a quantised checkpoint takes about as much memory as its files."""
    if source.settings is None or _method(source.settings) in _UNPACKED:
        return False
    return all(find_spec(module) is not None for module in _KERNELS.get(_method(source.settings), ()))


def packages(source: Source) -> list[str]:
    """What pip calls the installed packages that a source's values depend on, beside torch and transformers."""
    method = "bitsandbytes" if source.quantize else _method(source.settings) if source.settings else ""
    installed = [_pip_name(module) for module in _MODULES.get(method, ()) if find_spec(module) is not None]
    return [*installed, *(["peft"] if source.adapter else [])]


def _pip_name(module: str) -> str:
    return module.replace("_", "-")


def check_device(source: Source, device: str) -> None:
    """Refuse quantised weights that cannot be loaded on a device of this machine.

    Raises
    ------
    UnsupportedModelError
        The library of the checkpoint's method is not installed, or transformers says that it does not run here.
    MissingLibraryError
        bitsandbytes is not installed, and the weights are to be packed with it.
    """
    if source.quantize is not None:
        require_for_model("bitsandbytes", "quantize")
    if source.settings is None:
        return
    settings = dict(source.settings)
    method = _method(settings)
    missing = [_pip_name(module) for module in _MODULES.get(method, ()) if find_spec(module) is None]
    if missing:
        raise UnsupportedModelError(
            f"{source.name} is quantised with {method}, which needs {' and '.join(missing)}: "
            f"pip install {' '.join(missing)}"
        )
    try:
        with quiet(), chatter_withheld(source):
            from transformers.quantizers import AutoHfQuantizer

            if not AutoHfQuantizer.supports_quant_method(settings):
                raise ValueError(
                    "this transformers does not know the method; a newer one may (pip install -U transformers)"
                )
            quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=True)
            quantizer.validate_environment(device_map={"": device}, weights_only=True)
    except Exception as error:  # whatever a library misses, it cannot load the model
        raise UnsupportedModelError(
            f"{source.name} is quantised with {method} and cannot be loaded on {device} here: {first_line(error)}"
        ) from error


def _method(settings: Mapping[str, Any]) -> str:
    """The library or format that quantised a checkpoint; old configs of bitsandbytes do not name it."""
    if settings.get("load_in_8bit") or settings.get("load_in_4bit"):
        return "bitsandbytes"
    return str(settings.get("quant_method") or "unknown")


def loading_config(source: Source, dtype: Any) -> Any:
    """What `from_pretrained` takes as its quantization_config; None where the checkpoint's own will do.

    Parameters
    ----------
    source : Source
    dtype : torch.dtype
        To compute in.
    """
    import transformers

    if source.quantize == "int8":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    if source.quantize == "int4":
        return transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    settings = source.settings or {}
    method = _method(settings)
    # Formats that are unpacked once, while they are loaded: activations stay whole.
    if method == "compressed-tensors":
        return transformers.CompressedTensorsConfig(run_compressed=False)  # later: dequantize=True, which it sets
    if method == "fp8":
        unpacked = settings.get("modules_to_not_convert")
        return transformers.FineGrainedFP8Config(dequantize=True, modules_to_not_convert=unpacked)
    # Of the kernels that these would choose among, some round activations to 8 bits.
    if method == "gptq":
        return transformers.GPTQConfig(bits=settings.get("bits", 4), backend="torch")
    if method == "awq":
        return transformers.AwqConfig(bits=settings.get("bits", 4), backend="torch_awq")
    return None


@contextmanager
def chatter_withheld(source: Source) -> Iterator[None]:
    """Keep off the terminal what gptqmodel prints, past all loggers, while it loads a checkpoint."""
    if _method(source.settings or {}) not in ("gptq", "awq"):
        yield
        return
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def finish(module: Any, source: Source, dtype: Any) -> None:
    """Make a loaded model compute in `dtype`, with whole activations.

    Parameters
    ----------
    module : torch.nn.Module
    source : Source
    dtype : torch.dtype

    Raises
    ------
    ModelError
        Its library computes in another dtype whatever is asked for.
    """
    import torch

    if source.quantize is None and source.settings is None:
        return
    # By the names of the classes: bitsandbytes need not be installed.
    for layer in module.modules():
        if type(layer).__name__ in ("Linear8bitLt", "Linear4bit"):
            layer.forward = MethodType(_forward, layer)
    if source.quantize is None and not stays_packed(source):
        # Weights that were unpacked have the dtype of their scales, and those beside them that of the checkpoint.
        # As in transformers some modules stay in float32, and some of them only where all else is in float16.
        strict, loose = (getattr(module, f"_keep_in_fp32_modules{end}", None) or () for end in ("_strict", ""))
        in_float32 = (*strict, *(loose if dtype is torch.float16 else ()))
        for name, weight in module.named_parameters():
            if weight.is_floating_point() and not any(part in name for part in in_float32):
                weight.data = weight.data.to(dtype)
    loaded, asked = (str(each).removeprefix("torch.") for each in (module.get_input_embeddings().weight.dtype, dtype))
    if loaded != asked:
        raise ModelError(f"{source.name} is quantised and loads in {loaded}, not {asked}: give --dtype {loaded}")


def _forward(layer: Any, x: Any) -> Any:
    """A linear layer of bitsandbytes: x (..., in) times its unpacked weight (out, in), in the dtype of x."""
    import torch
    from bitsandbytes import functional

    weight = layer.weight
    if type(layer).__name__ == "Linear4bit":
        state = getattr(weight, "quant_state", None) or layer.quant_state
        unpacked = functional.dequantize_4bit(weight.data, state)
    else:
        scales = weight.SCB if weight.SCB is not None else layer.state.SCB
        unpacked = functional.int8_vectorwise_dequant(weight.data, scales)
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return torch.nn.functional.linear(x, unpacked.to(x.dtype), bias)
