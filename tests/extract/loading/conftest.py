"""Adapters with random weights over the toy models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

ToyModel = Callable[..., Path]
MakeAdapter = Callable[..., Path]


@pytest.fixture
def make_adapter(toy_model: ToyModel, tmp_path: Path) -> MakeAdapter:
    """Factory of saved adapters with random weights over a toy model; `tokens` makes that many new ones."""

    def make(
        base: Path | None = None,
        *,
        name: str = "my-adapter",
        tokens: int = 0,
        named: str | None = None,
        **settings: Any,
    ) -> Path:
        base = base or toy_model("llama")
        import peft

        module = transformers.AutoModelForCausalLM.from_pretrained(base)
        tokenizer = transformers.AutoTokenizer.from_pretrained(base)
        if tokens:
            tokenizer.add_tokens([f"<new{k}>" for k in range(tokens)])
            module.resize_token_embeddings(len(tokenizer))
        kind = settings.pop("kind", peft.LoraConfig)
        config = kind(task_type="CAUSAL_LM", **{"target_modules": ["q_proj", "v_proj"], **settings})
        adapted = peft.get_peft_model(module, config)
        torch.manual_seed(1)
        for _, weight in adapted.named_parameters():
            if weight.requires_grad:
                weight.data += 0.1 * torch.randn(weight.shape)
        adapted.peft_config["default"].base_model_name_or_path = named or str(base)
        adapted.save_pretrained(tmp_path / name)
        if tokens:
            tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make
