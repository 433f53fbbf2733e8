"""How positions rotate queries and keys in the model of a GGUF file (Su et al. 2021, arXiv 2104.09864), as its metadata say."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llreg_extract.files.gguf_file import GGUFFile
from llreg_extract.loading.gguf_architectures import Architecture
from llreg_extract.loading.gguf_layout import Shape

FACTORS = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
SECTIONS = "rope.dimension_sections"  # a list, also where all are alike
_BASE = 10000.0  # in llama.cpp where the metadata name none


@dataclass(frozen=True)
class Rotation:
    """How positions rotate queries and keys.

    Attributes
    ----------
    base : float
    dimensions : int
        Of a head, that are rotated.
    share : float
        The same as a share of the head.
    scaling : dict
        transformers' ``rope_scaling``; empty where there is none.
    factors : float array of shape (dimensions // 2,) or None
        What the frequencies are divided by: Llama 3's.
    sections : list of int
        Frequencies of each of several axes; a text has one, so that they change no value. Empty for most models.
    local_base : float or None
        Of the blocks that attend to a window, where it is another.
    """

    base: float
    dimensions: int
    share: float
    scaling: dict[str, Any]
    factors: NDArray[Any] | None
    sections: list[int]
    local_base: float | None

    @classmethod
    def from_keys(
        cls, file: GGUFFile, keys: dict[str, Any], architecture: Architecture, shape: Shape
    ) -> Rotation | None:
        """From the metadata, out of which what is used is taken; None where positions rotate nothing."""
        if architecture.rotary == "no":
            return None
        dimensions = keys.pop("rope.dimension_count", shape.head_size)
        if architecture.rotary == "whole" and dimensions != shape.head_size:
            raise file.refuse(f"{dimensions} of {shape.head_size} dimensions of a head are rotated")
        kind = keys.pop("rope.scaling.type", "linear")
        factor = keys.pop("rope.scaling.factor", 0.0) or keys.get("rope.scale_linear", 0.0) or 1.0
        keys.pop("rope.scale_linear", None)
        context = keys.pop("rope.scaling.original_context_length", file.header.context_length)
        scaling: dict[str, Any] = {}
        if kind == "longrope" or {LONG, SHORT} & file.header.tensors.keys():
            if not {LONG, SHORT} <= file.header.tensors.keys() or context is None:
                raise file.refuse("its long rope lacks a list of factors, or the context it was trained with")
            scaling = {
                "rope_type": "longrope",
                "long_factor": file.tensor(LONG).tolist(),
                "short_factor": file.tensor(SHORT).tolist(),
                "attention_factor": keys.pop("rope.scaling.attn_factor", 1.0),
                "original_max_position_embeddings": context,
            }
        elif kind == "yarn":
            scaling = _yarn(file, keys, factor, context)
        elif kind == "linear" and factor != 1.0:
            scaling = {"rope_type": "linear", "factor": factor}
        elif kind not in ("linear", "none"):
            raise file.refuse(f"its rope.scaling.type is {kind!r:.60}")
        if keys.get("rope.scaling.attn_factor") == 1.0:
            del keys["rope.scaling.attn_factor"]
        local = keys.pop("rope.freq_base_swa", _BASE) if architecture.model_type == "gemma3_text" else None
        factors = file.tensor(FACTORS) if FACTORS in file.header.tensors else None
        if factors is not None and factors.shape != (dimensions // 2,):
            raise file.refuse(
                f"{FACTORS} has the shape {factors.shape}, and {dimensions // 2} frequencies are divided by it"
            )
        base = keys.pop("rope.freq_base", _BASE)
        sections = keys.pop(SECTIONS, []) if architecture.other_blocks else []
        axes = [section for section in sections if section]
        return cls(base, dimensions, dimensions / shape.head_size, scaling, factors, axes, local)

    def settings(self, architecture: Architecture) -> dict[str, Any]:
        """Fields of transformers' config."""
        fields: dict[str, Any] = {"rope_theta": self.base, "rope_scaling": self.scaling or None}
        if self.sections:
            return {
                "rope_parameters": {
                    **(self.scaling or {"rope_type": "default"}),
                    "rope_theta": self.base,
                    "partial_rotary_factor": self.share,
                    "mrope_section": self.sections,
                    "mrope_interleaved": True,
                }
            }
        if architecture.rotary == "partial":
            fields["partial_rotary_factor"] = self.share
        if architecture.model_type == "gpt_neox":
            fields |= {"rotary_emb_base": self.base, "rotary_pct": self.share}
        if architecture.model_type == "phi3" and self.scaling:
            fields["original_max_position_embeddings"] = self.scaling["original_max_position_embeddings"]
        if self.local_base is not None:
            fields["rope_local_base_freq"] = self.local_base
        return fields

    def frequencies(self) -> NDArray[Any]:
        """float64 of shape (dimensions // 2,): radians a position."""
        steps = np.arange(0, self.dimensions, 2)
        plain = self.base ** -(steps / self.dimensions)
        scaling = self.scaling
        if scaling.get("rope_type") == "linear":
            plain = plain / scaling["factor"]
        elif scaling.get("rope_type") == "longrope":
            plain = plain / np.array(scaling["short_factor"])
        elif scaling.get("rope_type") == "yarn":
            # Peng et al. 2023 (arXiv 2309.00071), section 3.2: slow dimensions are interpolated, fast ones are not.
            context = scaling["original_max_position_embeddings"]
            low, high = (
                self.dimensions * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(self.base))
                for turns in (scaling["beta_fast"], scaling["beta_slow"])
            )
            low, high = max(math.floor(low), 0), min(math.ceil(high), self.dimensions - 1)
            interpolated = np.clip((steps / 2 - low) / max(high - low, 0.001), 0, 1)
            plain = plain / scaling["factor"] * interpolated + plain * (1 - interpolated)
        return plain if self.factors is None else plain / self.factors

    def check(self, file: GGUFFile, module: Any) -> None:
        """Divide a module's frequencies by `factors`, and check that they are then those of the metadata."""
        import torch

        local = None
        if self.local_base is not None:
            local = self.local_base ** -(np.arange(0, self.dimensions, 2) / self.dimensions)
        buffers = [(name, buffer) for name, buffer in module.named_buffers() if name.endswith("inv_freq")]
        if not buffers:
            raise file.refuse(f"llreg does not find the frequencies of a {type(module).__name__}")
        for name, buffer in buffers:
            expected = local if local is not None and re.search("local|sliding", name) else self.frequencies()
            if self.factors is not None and expected is not local:
                buffer.div_(torch.as_tensor(self.factors, dtype=buffer.dtype, device=buffer.device))
            actual = buffer.double().cpu().numpy()
            if actual.shape != expected.shape or not np.allclose(actual, expected, rtol=1e-5, atol=0):
                raise file.refuse(
                    f"the frequencies of this transformers' {type(module).__name__} are not its metadata's"
                )


def _yarn(file: GGUFFile, keys: dict[str, Any], factor: float, context: Any) -> dict[str, Any]:
    if keys.pop("rope.scaling.yarn_ext_factor", 1.0) != 1.0 or not isinstance(context, int):
        raise file.refuse("its YaRN scaling is of a kind that transformers has not")
    # llama.cpp multiplies with the paper's own factor; its converter writes transformers' whole one under the other key.
    whole = (0.1 * math.log(factor) + 1) * keys.pop("rope.scaling.attn_factor", 1.0)
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": context,
        "attention_factor": keys.pop("rope.scaling.yarn_attn_factor", whole),
        "beta_fast": keys.pop("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": keys.pop("rope.scaling.yarn_beta_slow", 1.0),
    }
