"""Every causal architecture of transformers that can be built small, against the reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from tests.extract.architectures import ARCHITECTURES, LEFT_OUT, build, save
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import llreg_extract

_LENGTHS = (3, 9, 17, 40, 64, 90)
_BATCH = 256  # tokens: 90 and 64 make one batch, and the others another
_TOLERANCE = 1e-6  # relative

# Code of their own insists on float32, so the reference cannot run them; they are compared with their float32 selves.
_NO_FLOAT64 = ("inkling2_text", "xglm")
# The length that a text is padded to changes its values, in float64 too: never in a batch with longer ones.
_ALONE = ("prophetnet",)
# Scored from the whole logits; every other one replays its head.
_WHOLE_LOGITS = ("prophetnet",)

# Some for which the output embeddings alone are not the head, and some that must not be padded on the left.
_OTHER_HEADS = (
    *("bert", "cohere", "cohere2", "falcon_h1", "gemma2", "gemma3_text", "granite", "granitemoe", "inkling_text"),
    *("minicpm3", "modernbert-decoder", "nanochat", "recurrent_gemma", "roberta", "xlstm"),
)
_NO_LEFT_PADDING = ("biogpt", "ctrl", "gpt2", "gpt_neo", "recurrent_gemma", "rwkv", "trocr")


def make_texts() -> list[str]:
    # No spaces: to some model types AutoTokenizer gives their own way to split words, and these toys have no token for it.
    draw = np.random.default_rng(7)
    return ["".join(map(chr, draw.integers(33, 127, length))) for length in _LENGTHS]


def make_ids(length: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(length).integers(3, 98, length))


def build_known(name: str) -> Any:
    """A model; the test is skipped where transformers is too old for it."""
    kind = name.partition(":")[0]
    if kind not in CONFIG_MAPPING or CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    return build(name)


def log_probs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """float64 of shape (text - 1,), nats; logits (text, vocabulary) and ids (text,)."""
    return logits.double().log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0]


@torch.inference_mode()
def plain_scores(module: Any, tokenizer: Any, texts: list[str]) -> NDArray[np.float64]:
    """The reference, but in float32: transformers' own forward pass, one text at a time."""
    rows = [torch.tensor(tokenizer(text)["input_ids"]) for text in texts]
    return np.array([float(log_probs(module(row[None], use_cache=False).logits[0], row).sum()) for row in rows])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_is_scored_as_by_the_reference(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    module = build_known(name)
    folder = save(module, tmp_path / f"toy-{name.replace(':', '-')}")
    model = llreg_extract.load(llreg_extract.resolve(str(folder)), device="cpu")
    record_property("path", model.path)
    record_property("batching", model.batching)
    texts = make_texts()
    cuts = [np.arange(0, length, 7, dtype=np.int32) for length in _LENGTHS]
    scores = llreg_extract.score(model, texts, batch_tokens=_BATCH, cuts=cuts)
    assert scores.segments is not None
    if name in _NO_FLOAT64:
        expected = plain_scores(module, model.tokenizer.library, texts)
    else:
        reference = llreg_extract.reference_scores(model, texts, cuts=cuts)
        expected = reference.log_likelihood.astype(np.float64)
        for found, exact in zip(scores.segments, reference.segments or (), strict=True):
            assert np.abs(found - exact).max() <= _TOLERANCE * np.abs(exact).sum()
    assert np.abs([segments.sum() for segments in scores.segments] / expected - 1).max() <= _TOLERANCE
    assert scores.num_tokens.tolist() == [length - 1 for length in _LENGTHS]
    assert np.abs(scores.log_likelihood / expected - 1).max() <= _TOLERANCE
    assert model.batching is (name not in _ALONE)
    assert model.path == ("logits" if name in _WHOLE_LOGITS else "replay")


@pytest.mark.parametrize("name", _OTHER_HEADS)
@torch.inference_mode()
def test_a_head_of_the_output_embeddings_alone_would_be_seen(name: str) -> None:
    module, ids = build_known(name), make_ids(40)
    states = module.base_model(ids[None], use_cache=False)[0]
    found = log_probs(module.get_output_embeddings()(states)[0], ids)
    right = log_probs(module(ids[None], use_cache=False).logits[0], ids)
    assert abs(found.sum() / right.sum() - 1) > 100 * _TOLERANCE


@pytest.mark.parametrize("name", _NO_LEFT_PADDING)
@torch.inference_mode()
def test_padding_on_the_left_would_be_seen(name: str) -> None:
    module, ids = build_known(name), make_ids(40)
    padded, mask = torch.cat([torch.zeros_like(ids), ids]), torch.arange(80) >= 40
    both = module(torch.stack([make_ids(80), padded]), attention_mask=torch.stack([mask | True, mask]).long())
    right = log_probs(module(ids[None], use_cache=False).logits[0], ids)
    assert abs(log_probs(both.logits[1, 40:], ids).sum() / right.sum() - 1) > 100 * _TOLERANCE


def test_the_architectures_are_many_and_their_list_is_whole() -> None:
    tested = {name.partition(":")[0] for name in ARCHITECTURES}
    left_out = set(" ".join(LEFT_OUT.values()).split())
    assert len(tested & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)) >= 60
    assert not tested & left_out
    if transformers.__version__.startswith("5.23."):  # what others know besides, or not yet, is no fault
        assert tested | left_out == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
