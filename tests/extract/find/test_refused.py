"""What is no causal language model is refused, by its name and by what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.extract.architectures import build, save
from transformers import CONFIG_MAPPING

import llreg_extract
from llreg_schemas.errors import UnsupportedModelError


def write_config(folder: Path, kind: str, architecture: str, **changes: Any) -> Path:
    """A checkpoint's config.json with the defaults of a model type, as transformers would save it."""
    folder.mkdir()
    config = json.loads(CONFIG_MAPPING[kind]().to_json_string(use_diff=False))
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [architecture], **changes}))
    (folder / "model.safetensors").touch()  # never read: the config is enough
    return folder


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [
        ("bert", "BertForMaskedLM"),
        ("bert", "BertLMHeadModel"),
        ("bert-generation", "BertGenerationDecoder"),
        ("big_bird", "BigBirdForCausalLM"),
        ("camembert", "CamembertForCausalLM"),
        ("data2vec-text", "Data2VecTextForCausalLM"),
        ("electra", "ElectraForPreTraining"),
        ("ernie", "ErnieForCausalLM"),
        ("megatron-bert", "MegatronBertForCausalLM"),
        ("reformer", "ReformerForMaskedLM"),
        ("rembert", "RemBertForCausalLM"),
        ("roberta", "RobertaForCausalLM"),
        ("roberta-prelayernorm", "RobertaPreLayerNormForCausalLM"),
        ("roc_bert", "RoCBertForCausalLM"),
        ("roformer", "RoFormerForCausalLM"),
        ("xlm", "XLMWithLMHeadModel"),
        ("xlm-roberta", "XLMRobertaForCausalLM"),
        ("xlm-roberta-xl", "XLMRobertaXLForCausalLM"),
        ("xmod", "XmodForCausalLM"),
    ],
)
def test_encoders_that_have_a_causal_class(tmp_path: Path, kind: str, architecture: str) -> None:
    message = rf"toy is an? {architecture} \(bidirectional encoder\), not a causal language model: llreg scores"
    with pytest.raises(UnsupportedModelError, match=message):
        llreg_extract.resolve(str(write_config(tmp_path / "toy", kind, architecture)))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gemma3_text", {"use_bidirectional_attention": True}),
        ("gemma3", {"text_config": {"use_bidirectional_attention": True}}),
        ("gemma4_text", {"use_bidirectional_attention": "all"}),
        ("llama", {"is_causal": False}),
    ],
)
def test_decoders_turned_into_encoders(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match=r"toy is a SomeModel \(bidirectional encoder\), not a causal"):
        llreg_extract.resolve(str(write_config(tmp_path / "toy", kind, "SomeModel", **changes)))


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [
        ("bart", "BartForConditionalGeneration"),
        ("bart", "BartForCausalLM"),  # the whole of BART, to be loaded as its decoder
        ("marian", "MarianMTModel"),
        ("mt5", "MT5ForConditionalGeneration"),
        ("musicgen", "MusicgenForConditionalGeneration"),
        ("prophetnet", "ProphetNetForConditionalGeneration"),
        ("t5gemma", "T5GemmaForConditionalGeneration"),
        ("whisper", "WhisperForConditionalGeneration"),
    ],
)
def test_encoder_decoders(tmp_path: Path, kind: str, architecture: str) -> None:
    message = rf"toy is an? {architecture} \(encoder-decoder\), not a causal language model"
    with pytest.raises(UnsupportedModelError, match=message):
        llreg_extract.resolve(str(write_config(tmp_path / "toy", kind, architecture)))


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [
        ("clip", "CLIPModel"),
        ("llava", "LlavaForConditionalGeneration"),
        ("vit", "ViTForImageClassification"),
        ("wav2vec2", "Wav2Vec2ForCTC"),
        ("gpt2", "GPT2ForTokenClassification"),
        ("llama", "LlamaForQuestionAnswering"),
        ("llama", "LlamaForSequenceClassification"),
        ("qwen2", "Qwen2ForRewardModel"),
    ],
)
def test_other_media_and_other_heads(tmp_path: Path, kind: str, architecture: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"toy is an? {architecture}, not a causal language model"):
        llreg_extract.resolve(str(write_config(tmp_path / "toy", kind, architecture)))


def test_a_decoder_cut_out_of_a_larger_model(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "toy", "mllama_text_model", "MllamaForCausalLM")
    message = r"toy is a MllamaForCausalLM on its own \(mllama_text_model\), .* only as a part of a larger model"
    with pytest.raises(UnsupportedModelError, match=message):
        llreg_extract.resolve(str(folder))


def test_hashed_attention(tmp_path: Path) -> None:
    # Later tokens fall into the same buckets, and move what earlier ones attend to once a text fills some chunks.
    folder = write_config(tmp_path / "toy", "reformer", "ReformerModelWithLMHead", is_decoder=True)
    with pytest.raises(UnsupportedModelError, match=r"ReformerModelWithLMHead \(hashed attention\), not a causal"):
        llreg_extract.resolve(str(folder))


@pytest.mark.parametrize("name", ["cpmant", "xlnet"])
def test_what_only_shows_when_it_runs(tmp_path: Path, name: str) -> None:
    folder = save(build(name), tmp_path / "toy")
    source = llreg_extract.resolve(str(folder))
    with pytest.raises(UnsupportedModelError, match=r"^toy.* is not causal: its early predictions change with later"):
        llreg_extract.load(source, device="cpu")
