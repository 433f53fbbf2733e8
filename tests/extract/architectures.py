"""Small random models of the causal architectures of transformers, the quirks of each family switched on.

A name in `ARCHITECTURES` is a model type, or one and a variant: ``"falcon"``, ``"falcon:alibi"``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import CONFIG_MAPPING

_VOCABULARY = 120

# Given to every config that has a field of the name.
_FIELDS: dict[str, Any] = {
    name: value
    for value, names in (
        (_VOCABULARY, "vocab_size vocab_size_per_layer_input"),
        (32, "hidden_size d_model n_embd emb_dim embedding_dim lru_width word_embed_proj_dim"),
        (16, "embedding_size input_embedding_size"),  # not the hidden size: a projection stands between
        (8, "hidden_size_per_layer_input"),
        (48, "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim ffn_hidden_size n_inner dff d_inner dim_ff"),
        (48, "feed_forward_size dense_intermediate_size intermediate_size_mlp"),
        (24, "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size"),
        (24, "moe_shared_expert_intermediate_size expert_ffn_hidden_size"),
        (2, "num_hidden_layers n_layer n_layers num_layers num_blocks decoder_layers encoder_layers"),
        (2, "num_decoder_layers num_encoder_layers"),
        (4, "num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads"),
        (4, "encoder_attention_heads num_decoder_attention_heads num_encoder_attention_heads swa_num_attention_heads"),
        (2, "num_key_value_heads num_kv_heads swa_num_key_value_heads"),
        (8, "head_dim d_head dim_head attention_head_size kv_channels swa_head_dim"),
        (128, "max_position_embeddings n_positions max_seq_len context_length n_ctx max_target_positions"),
        (128, "model_max_length"),
        # Windows far shorter than the longest text.
        (16, "sliding_window sliding_window_size window_size attention_window_size local_attention"),
        (16, "local_attention_window_len attention_chunk_size rel_extent index_topk floor_scale"),
        (16, "chunk_size mamba_chunk_size block_size local_attn_chunk_length"),
        (4, "num_experts num_local_experts n_routed_experts moe_num_experts"),
        (2, "num_experts_per_tok num_experts_per_token moe_k moe_topk moe_top_k n_group num_expert_group"),
        (1, "topk_group first_k_dense_replace num_dense_layers"),
        (16, "kv_lora_rank q_lora_rank o_lora_rank qk_head_dim router_hidden_size"),
        (8, "qk_rope_head_dim qk_nope_head_dim v_head_dim d_rel"),
        # An indexer of few heads often gives keys equal scores, and the padding decides which of them is kept.
        (16, "index_n_heads index_head_dim query_pre_attn_scalar"),
        (2, "linear_num_key_heads o_groups hc_mult kv_n_heads"),
        (4, "linear_num_value_heads linear_num_heads rotary_dim"),
        (8, "linear_key_head_dim linear_value_head_dim linear_head_dim"),
        (8, "mamba_d_state state_size ssm_state_size mamba_n_heads mamba_num_heads mamba_d_head mamba_head_dim"),
        (4, "time_step_rank mamba_dt_rank"),
        (64, "mamba_d_ssm"),
        (0, "pad_token_id"),
        (1, "bos_token_id cls_token_id decoder_start_token_id"),
        (2, "eos_token_id sep_token_id"),
        (110, "image_token_id image_token_index video_token_id audio_token_id"),  # in no text
        (True, "is_decoder lm_head_bias"),
        # What stands between the head and the logits, or scales what is inside.
        (5.0, "final_logit_softcapping attn_logit_softcapping logits_soft_cap output_logit_soft_cap"),
        (0.5, "logit_scale lm_head_multiplier residual_multiplier attention_multiplier"),
        (2.0, "logits_scaling embedding_multiplier clip_qkv"),
        (1, "rescale_every attn_layer_offset"),
        (2, "attn_layer_period"),
    )
    for name in names.split()
}
_PER_LAYER = ("layer_types", "layers_block_type", "mlp_layer_types")

_LONG_ROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
_MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}

_OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "blt": {
        "vocab_size": 260,
        "encoder_hash_byte_group_vocab": 50,
        "encoder_hash_byte_group_size": [3, 4],
        "patcher_config": {"vocab_size": 260},
        "encoder_config": {"vocab_size": 260, "hidden_size_global": 32},
        "decoder_config": {"vocab_size": 260, "hidden_size_global": 32},
    },
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {"sliding_attention": _MROPE, "full_attention": _MROPE},
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4}},
    "doge": {"keep_window_size": 128},  # past it equal tokens tie, and the padding decides which is kept
    "dots1": {"n_shared_experts": 1, "layer_types": ["full_attention", "sliding_attention"]},
    "dots3_note_text": {
        "n_group": 1,
        "head_dim": 16,
        "layer_types": ["indexed_attention", "sliding_attention"],
        "swa_num_key_value_heads": 4,
        "swa_num_attention_heads": 4,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 16,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 8,
        "shared_experts_intermediate_size": 24,
    },
    "falcon:alibi": {"alibi": True},
    "falcon_h1": {"ssm_multipliers": [0.5, 2.0, 0.5, 2.0, 1.5], "mlp_multipliers": [0.5, 2.0], "key_multiplier": 0.5},
    "flint": {"mlp_only_layers": [0]},
    "gemma3n_text": {
        "num_hidden_layers": 5,
        "num_kv_shared_layers": 2,
        "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "intermediate_size": [48] * 5,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0, 0.0],
    },
    "gemma4_text": {"per_layer_config": {}},
    "gemma4_unified_text": {"per_layer_config": {}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "inkling_text": {"logits_mup_width_multiplier": 2.0, "unpadded_vocab_size": 118},
    "inkling2_text": {"unpadded_vocab_size": 118},
    "kimi_linear": {"q_lora_rank": None},
    "laguna": {"layer_types": ["full_attention", "sliding_attention"]},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "llama:yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
    "longcat_flash": {"zero_expert_num": 2},
    "mamba2": {"n_groups": 2, "num_heads": 8},
    "mellum": {"layer_types": ["full_attention", "sliding_attention"]},
    "minicpm3": {"dim_model_base": 16, "scale_emb": 3},
    "ministral": {"layer_types": ["full_attention", "sliding_attention"]},
    "opt:350m": {"word_embed_proj_dim": 16, "do_layer_norm_before": False},
    "phi3:longrope": {"original_max_position_embeddings": 70, "rope_parameters": _LONG_ROPE},
    "qwen2:sliding": {"use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"]},
    "qwen4_exp_text": {
        "hc_count": 2,
        "hc_lowrank": 8,
        "indexer_n_heads": 16,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {"axial_pos_embds_dim": [8, 24], "axial_pos_shape": [8, 16], "attn_layers": ["local", "local"]},
    "rembert": {"output_embedding_size": 48},
    "roc_bert": {
        "pronunciation_embed_dim": 16,
        "pronunciation_vocab_size": 130,
        "shape_embed_dim": 16,
        "shape_vocab_size": 130,
    },
    "xlm": {"causal": True},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid", "linear_attention"],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
    "zaya": {"num_experts_per_tok": 1},
}

# Checkpoints of which the causal class loads a part.
_WHOLE = {"mllama": "MllamaForConditionalGeneration", "qwen3_5": "Qwen3_5ForConditionalGeneration"}

# By name, the seed of the weights where it is not 0. Gated delta rules of this size lose digits: for some weights
# transformers' own float32 forward pass of one text is 1.2e-6 from float64.
_SEEDS = {"qwen3_5": 7, "qwen3_5_moe_text": 5, "qwen3_5_text": 3, "qwen3_next": 3}

_NAMES = """
    afmoe apertus arcee aria_text axk1 axk2 bailing_hybrid bamba bart beam bert bert-generation big_bird
    bigbird_pegasus biogpt bitnet blenderbot blenderbot-small bloom blt camembert codegen cohere cohere2
    cohere2_moe cohere_compass_text ctrl cwm data2vec-text dbrx deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4
    diffllama doge dots1 dots3_note_text electra ernie ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon
    falcon:alibi falcon_h1 falcon_mamba flex_olmo flint fuyu gemma gemma2 gemma3 gemma3_text gemma3n_text gemma4
    gemma4_text gemma4_unified gemma4_unified_text git glm glm4 glm4_moe glm4_moe_lite glm_moe_dsa got_ocr2 gpt2
    gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss gptj granite granite_swa granitemoe granitemoe_swa
    granitemoehybrid granitemoeshared helium hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4 hyperclovax
    inkling2_text inkling_text jais2 jamba jetmoe kimi_linear kolibri1 laguna lfm2 lfm2_moe lfm3 llama llama4_text
    llama:yarn longcat_flash mamba mamba2 marian mbart megatron-bert mellum mimo_v2_flash minicpm3
    minimax minimax_m2 minimax_m3_vl_text ministral ministral3 mistral mixtral mllama modernbert-decoder moshi
    moss_transcribe_diarize mpt mvp nanochat nemotron nemotron_h olmo olmo2 olmo3 olmo_hybrid olmoe openai-gpt opt
    opt:350m pegasus persimmon phi phi3 phi3:longrope phi4_multimodal phimoe plbart prophetnet qwen2 qwen2:sliding
    qwen2_moe qwen3 qwen3_5 qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen4_exp_text recurrent_gemma
    reformer rembert roberta roberta-prelayernorm roc_bert roformer rwkv seed_oss smollm3 solar_open stablelm
    starcoder2 trocr vaultgemma whisper xglm xlm xlm-roberta xlm-roberta-xl xlstm xmod youtu zamba zamba2 zaya
"""
ARCHITECTURES = tuple(_NAMES.split())

# The other model types that transformers has a causal class for, and why they are not among these.
LEFT_OUT = {
    "not causal, and refused": "cpmant xlnet",
    "another name of GPT-2, or of Llama": "gpt-sw3 internlm3 iquestcoder",
    "its text part is there, and its other parts cannot be made small": "dots3_note llama4 qwen3_5_moe qwen4_exp",
    "needs timm for its vision part; its text part is there": "gemma3n",
    "drafts tokens for a larger model, from that one's hidden states": "gemma4_assistant gemma4_unified_assistant",
    "an encoder-decoder around a decoder that AutoModelForCausalLM does not load": "musicgen musicgen_melody",
    "its causal class takes the config of a part, which AutoModelForCausalLM does not load": "emu3",
}


def build(name: str) -> Any:
    """A random model in evaluation mode, float32, always the same."""
    kind = name.partition(":")[0]
    config = CONFIG_MAPPING[kind](**_fields(CONFIG_MAPPING[kind](), _OWN.get(name, {})))
    torch.manual_seed(0)
    if kind in _WHOLE:
        module = getattr(transformers, _WHOLE[kind])(config)
    else:
        module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _randomise(module, _SEEDS.get(name, 0))
    return module.eval()


def _fields(default: Any, own: dict[str, Any]) -> dict[str, Any]:
    """Arguments for a config of the class of `default`."""
    known = vars(default)
    fields = {name: value for name, value in _FIELDS.items() if name in known}
    if "kv_lora_rank" in known:  # latent attention repeats no keys
        fields["num_key_value_heads"] = 4
    fields |= _layers(known)
    for part in getattr(default, "sub_configs", {}):
        inner = getattr(default, part, None)
        if inner is not None:
            fields[part] = {"model_type": inner.model_type, **_fields(inner, own.get(part, {}))}
    return fields | {name: value for name, value in own.items() if name not in getattr(default, "sub_configs", {})}


def _layers(known: dict[str, Any]) -> dict[str, Any]:
    """One layer of each kind that the default config has, and at least two."""
    kinds = {name: list(dict.fromkeys(known[name])) for name in _PER_LAYER if isinstance(known.get(name), list)}
    number = max([2, *map(len, kinds.values())])
    fields: dict[str, Any] = {name: (values * number)[:number] for name, values in kinds.items() if values}
    return {**fields, "num_hidden_layers": number} if fields and "num_hidden_layers" in known else fields


def _randomise(module: Any, seed: int) -> None:
    """Weights that give logits a standard deviation of some nats, and biases and norms that are not neutral.

    As transformers initialises them, models of this size predict nearly the same for every token, and a scale, a bias or
    a position that is left out would not show.
    """
    generator = torch.Generator().manual_seed(seed)
    # Of routers; GPT's buffers of the name are masks.
    biases = [tensor for name, tensor in module.named_buffers() if name.endswith(("correction_bias", "expert_bias"))]
    with torch.no_grad():
        for name, weight in [*module.named_parameters(), *(("", bias) for bias in biases)]:
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim < 2 or min(weight.shape[-2:]) == 1 or "A_log" in name:
                weight += 0.2 * noise
            else:
                wide = "emb" in name or weight.shape[0] == _VOCABULARY
                weight.copy_(noise * (0.5 if wide else min(weight.shape[-2:]) ** -0.5))


def tokenizer() -> Any:
    """One token a character of printable ASCII, and none besides."""
    characters = {chr(code): code - 29 for code in range(32, 127)}
    made = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, **characters}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>")


def save(module: Any, folder: Path) -> Path:
    """A model and its tokenizer as a checkpoint; gives the folder back."""
    module.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
