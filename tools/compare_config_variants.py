#!/usr/bin/env python3
"""Compares quern with transformers on the tiny models of fixtures/architectures with one key of config.json changed.

    python3 tools/compare_config_variants.py target/debug/quern [FOLDER...]

FOLDER... are the models to vary (default: all). Needs torch and transformers (5.24). For each variant the likeliest
token behind a prompt and its log-probability, in float32 (`--kv f32`, eager attention), must agree to 2e-4, or quern
must refuse the model with a message that names a changed key. "DEL" removes a key. Exit code 1 if any differs.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

transformers.logging.set_verbosity_error()

MODELS = pathlib.Path(__file__).resolve().parent.parent / "fixtures/architectures"
PROMPT = "It was a dark night, and the old captain said: in 1999 we'll be"

VARIANTS = [
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ("gpt2", {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True}),
    ("gpt2", {"activation_function": "gelu"}),
    ("gpt2", {"activation_function": "relu"}),
    ("falcon", {"activation": "gelu_new"}),
    ("starcoder2", {"hidden_act": "silu"}),
    ("phi", {"hidden_act": "gelu"}),
    ("gpt_neox", {"hidden_act": "relu"}),
    ("opt", {"activation_function": "silu"}),
    ("mistral", {"sliding_window": 4, "layer_types": ["full_attention", "sliding_attention"]}),
    ("mistral", {"sliding_window": 4}),
    ("mistral", {"sliding_window": "DEL", "num_key_value_heads": 2}),
    ("falcon", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    ("falcon-7b", {"rope_theta": 30000.0}),
    ("phi", {"rope_parameters": {"rope_theta": 30000.0, "partial_rotary_factor": 1.0}}),
    ("phi", {"partial_rotary_factor": 1.0, "rope_parameters": None}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "layer_types": None}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "layer_types": None}),
    ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 4}),
    ("llama", {"sliding_window": 4}),
    ("mistral", {"sliding_window": 4, "layer_types": ["full_attention", "full_attention"]}),
    ("gemma", {"hidden_act": "gelu"}),
    ("gemma", {"hidden_act": "gelu", "hidden_activation": "gelu"}),
    ("gemma2", {"attn_logit_softcapping": None}),
    ("gemma2", {"attn_logit_softcapping": "DEL", "final_logit_softcapping": "DEL", "query_pre_attn_scalar": "DEL"}),
    ("gemma2", {"sliding_window": 3}),
    ("gemma2", {"query_pre_attn_scalar": 7}),
    ("gemma3", {"rope_parameters": {"rope_type": "linear", "factor": 8.0, "rope_theta": 700000.0}}),
    ("gemma3", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "mscale": 1.0, "mscale_all_dim": 0.5}, "rope_parameters": "DEL"}),
    ("gemma3", {"sliding_window": 3, "layer_types": "DEL", "sliding_window_pattern": 2}),
    ("gpt_neox", {"rope_parameters": "DEL", "rotary_pct": 1.0, "rotary_emb_base": 777}),
    ("gpt_neox", {"rope_parameters": "DEL", "rope_theta": 777}),
    ("gpt_neox", {"hidden_act": "gelu_fast"}),
    ("gpt_neox", {"hidden_act": "gelu_accurate"}),
    ("gpt_neox", {"hidden_act": "gelu_python"}),
    ("stablelm", {"rope_parameters": "DEL", "partial_rotary_factor": "DEL"}),
    ("stablelm", {"rope_parameters": "DEL", "partial_rotary_factor": 0.5}),
    ("starcoder2", {"sliding_window": 4}),
    ("starcoder2", {"norm_epsilon": "DEL"}),
    ("opt", {"activation_function": "gelu"}),
    ("mixtral", {"rope_parameters": "DEL", "rms_norm_eps": "DEL"}),
    ("mixtral", {"sliding_window": 3}),
    ("phi3", {"sliding_window": 4}),
    ("phi3-longrope", {"original_max_position_embeddings": 12}),
    ("phi3-longrope", {"rope_scaling": {"rope_type": "yarn", "short_factor": [1.0, 1.05, 1.1, 1.2], "long_factor": [1.1, 1.5, 2.75, 6.5]}}),
    ("llama3", {"original_max_position_embeddings": 8}),
    ("llama", {"rms_norm_eps": "DEL", "max_position_embeddings": "DEL"}),
    ("seed_oss", {"attention_bias": "DEL", "attention_out_bias": "DEL", "mlp_bias": "DEL", "rms_norm_eps": "DEL"}),
    ("seed_oss", {"rope_theta": "DEL", "max_position_embeddings": "DEL"}),
    ("seed_oss", {"rope_scaling": {"rope_type": "default"}, "sliding_window": 4}),
    ("seed_oss", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}}),
    ("mistral", {"architectures": ["MinistralForCausalLM"], "model_type": "ministral"}),
    ("mistral", {"architectures": ["MinistralForCausalLM"], "model_type": "ministral",
                 "layer_types": ["full_attention", "sliding_attention"]}),
    ("solar_open", {"norm_topk_prob": False, "routed_scaling_factor": "DEL"}),
    ("cwm", {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 6}),
    ("cwm", {"rope_parameters": "DEL", "layer_types": "DEL"}),
    ("jais2", {"layer_norm_eps": "DEL", "rope_parameters": "DEL"}),
    ("hyperclovax", {"attention_multiplier": "DEL", "logits_scaling": "DEL"}),
    ("hyperclovax", {"embedding_multiplier": "DEL", "residual_multiplier": "DEL"}),
    ("vaultgemma", {"attn_logit_softcapping": None, "query_pre_attn_scalar": "DEL", "layer_types": "DEL"}),
    ("exaone_moe", {"mlp_layer_types": ["sparse", "dense"], "layer_types": ["full_attention", "sliding_attention"]}),
    ("exaone_moe", {"routed_scaling_factor": "DEL", "norm_topk_prob": False, "sliding_window": "DEL"}),
    ("flex_olmo", {"norm_topk_prob": True, "rope_parameters": "DEL"}),
    ("seed_oss-biases", {"hidden_act": "swish", "rope_parameters": {"rope_type": "llama3", "rope_theta": 5000.0,
                         "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 16}}),
    ("smollm3", {"no_rope_layers": "DEL", "no_rope_layer_interval": 2}),
    ("smollm3", {"no_rope_layers": [0, 1, 1, 0, 1]}),
    ("granite", {"attention_multiplier": "DEL", "logits_scaling": "DEL"}),
    ("granite", {"embedding_multiplier": "DEL", "residual_multiplier": "DEL"}),
    ("olmo2", {"rope_theta": 777.0}),
    ("olmo3", {"sliding_window": 5, "layer_types": "DEL"}),
    ("olmo3", {"rope_parameters": "DEL", "rope_theta": 700000.0}),
    ("olmo3", {"rope_parameters": "DEL", "rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    ("olmoe", {"norm_topk_prob": True}),
    ("arcee", {"hidden_act": "silu"}),
    # as published, and as transformers 5 saves it
    ("exaone", {"num_hidden_layers": "DEL", "num_layers": 2, "rms_norm_eps": "DEL", "layer_norm_epsilon": 0.02,
                "hidden_act": "DEL", "activation_function": "silu"}),
    ("exaone", {"architectures": ["LlamaForCausalLM"], "rms_norm_eps": "DEL"}),
    ("llama", {"architectures": ["IQuestCoderForCausalLM"], "model_type": "iquestcoder", "head_dim": 8}),
    ("llama", {"model_type": "iquestcoder", "head_dim": 8, "rms_norm_eps": "DEL"}),
    ("granite_swa", {"layer_rope_theta": "DEL"}),
    ("granite_swa", {"layer_rope_theta": [777.0, 777.0], "layer_types": "DEL"}),
    ("granite_swa", {"layer_rope_theta": [777.0, 778.0]}),
    ("granite_swa", {"sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]}),
    ("exaone4", {"sliding_window": 5, "sliding_window_pattern": 2}),
    ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 4}),
    ("cohere2", {"sliding_window": 5, "sliding_window_pattern": 2, "logit_scale": "DEL"}),
    ("ernie4_5", {"rope_theta": "DEL"}),
    ("qwen2_moe", {"norm_topk_prob": True}),
    ("dots1", {"n_group": "DEL", "topk_group": "DEL", "routed_scaling_factor": "DEL"}),
    ("dots1", {"norm_topk_prob": "DEL"}),
    ("glm4_moe", {"partial_rotary_factor": "DEL", "norm_topk_prob": False}),
    ("glm4_moe", {"n_group": 1, "topk_group": 1}),
    ("ernie4_5_moe", {"moe_k": 3, "rope_theta": "DEL"}),
    ("minimax_m2", {"rope_parameters": "DEL", "rotary_dim": 8, "rope_theta": 7000.0}),
    ("apertus", {"rope_parameters": "DEL", "rms_norm_eps": "DEL"}),
    ("apertus", {"rope_parameters": {"rope_theta": 3000.0, "rope_type": "default"}}),
    ("cohere", {"logit_scale": "DEL", "layer_norm_eps": "DEL", "rope_theta": "DEL"}),
    ("gemma3n", {"activation_sparsity_pattern": [0.0, 0.5, 0.0, 0.9], "sliding_window": 6}),
    ("gemma3n", {"final_logit_softcapping": "DEL"}),
    ("gemma3n", {"altup_correct_scale": False}),
    ("gemma3n", {"num_kv_shared_layers": 2, "rms_norm_eps": "DEL", "sliding_window": "DEL"}),
    ("gemma4", {"sliding_window": 7, "final_logit_softcapping": None}),
    ("gemma4", {"rope_parameters": {"full_attention": {"partial_rotary_factor": 0.5, "rope_theta": 5000.0,
                "rope_type": "proportional"}, "sliding_attention": {"rope_theta": 700.0, "rope_type": "default"}}}),
    ("gemma4", {"rms_norm_eps": "DEL", "hidden_activation": "DEL"}),
    ("glm", {"partial_rotary_factor": "DEL", "rope_theta": "DEL", "rms_norm_eps": "DEL"}),
    ("glm", {"partial_rotary_factor": 1.0}),
    ("glm4", {"rope_parameters": "DEL", "rope_theta": 777.0, "partial_rotary_factor": 1.0}),
    ("glm4", {"rope_parameters": "DEL"}),
    ("helium", {"rope_parameters": "DEL", "rope_theta": 777.0}),
    ("helium", {"rope_parameters": "DEL", "rms_norm_eps": "DEL"}),
    ("hunyuan", {"rope_scaling": {"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0}}),
    ("hunyuan", {"rope_scaling": None}),
    ("nemotron", {"partial_rotary_factor": "DEL", "norm_eps": "DEL", "rope_theta": "DEL"}),
    ("nemotron", {"hidden_act": "silu", "partial_rotary_factor": 1.0}),
    ("nemotron_h", {"layer_norm_epsilon": "DEL", "mlp_hidden_act": "silu"}),
    ("nemotron_h", {"time_step_limit": [0.0, 0.01]}),
    ("nemotron_h_super", {"norm_topk_prob": False, "routed_scaling_factor": "DEL"}),
    ("nemotron_h_super", {"num_experts_per_tok": 2, "n_group": 2, "topk_group": 1}),
    ("granitehybrid-rope", {"rope_theta": "DEL", "rms_norm_eps": "DEL", "attention_multiplier": "DEL"}),
    ("granitehybrid-rope", {"position_embedding_type": "nope"}),
    ("granitehybrid-rope", {"position_embedding_type": "DEL"}),
    ("granitehybrid-rope", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "residual_multiplier": "DEL"}),
    ("granitehybrid-rope", {"logits_scaling": "DEL", "embedding_multiplier": "DEL"}),
    ("afmoe", {"mup_enabled": False}),
    ("afmoe", {"route_scale": "DEL", "sliding_window": 3, "rms_norm_eps": "DEL"}),
    ("afmoe", {"layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]}),
    ("afmoe", {"num_experts_per_tok": 1, "rope_parameters": {"rope_theta": 777.0, "rope_type": "default"}}),
    ("olmo", {"clip_qkv": "DEL", "rope_theta": "DEL"}),
    ("olmo", {"clip_qkv": 0.25}),
    ("olmo", {"num_key_value_heads": 2, "rms_norm_eps": 0.5, "layer_norm_eps": 0.5}),
    ("olmo", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    ("gemma4-moe", {"top_k_experts": 1}),
    ("gemma4-moe", {"rms_norm_eps": "DEL", "hidden_activation": "DEL", "sliding_window": 7}),
    ("gemma4-moe", {"hidden_activation": "gelu_pytorch_tanh", "final_logit_softcapping": 3.0}),
    ("gemma4-moe", {"rope_parameters": {"full_attention": {"partial_rotary_factor": 0.5, "rope_theta": 5000.0,
                    "rope_type": "proportional"}, "sliding_attention": {"rope_theta": 700.0, "rope_type": "default"}}}),
    ("lfm2", {"norm_eps": "DEL", "rope_parameters": "DEL", "rope_theta": 777.0}),
    ("lfm2", {"rope_parameters": "DEL"}),
    ("lfm2_moe", {"norm_topk_prob": False, "routed_scaling_factor": 2.0}),
    ("lfm2_moe", {"norm_topk_prob": "DEL", "routed_scaling_factor": "DEL", "num_experts_per_tok": 1}),
    ("deepseek_v2", {"norm_topk_prob": True}),
    ("deepseek_v2", {"topk_method": "greedy", "routed_scaling_factor": "DEL"}),
    ("deepseek_v2", {"rope_scaling": None}),
    ("deepseek_v3", {"norm_topk_prob": False}),
    ("deepseek_v3", {"n_group": 1, "topk_group": 1, "routed_scaling_factor": "DEL"}),
    ("deepseek_v3", {"rope_scaling": None, "rope_interleave": "DEL"}),
    ("deepseek_v3", {"rope_interleave": False}),
    ("glm4_moe_lite", {"norm_topk_prob": False, "routed_scaling_factor": "DEL"}),
    ("glm4_moe_lite", {"rope_parameters": "DEL", "rope_theta": 777.0}),
    ("deepseek_v32", {"index_topk": 3}),
    ("deepseek_v32", {"index_topk": "DEL", "index_n_heads": 8}),
    ("deepseek_v32", {"rope_scaling": None, "norm_topk_prob": False}),
    ("glm_moe_dsa", {"indexer_types": "DEL", "index_topk_freq": 2, "index_skip_topk_offset": 1}),
    ("glm_moe_dsa", {"index_topk": 4, "routed_scaling_factor": "DEL"}),
    ("glm_moe_dsa", {"rope_parameters": "DEL", "rope_theta": 777.0}),
    ("youtu", {"rope_parameters": {"rope_type": "default", "rope_theta": 777.0}}),
    ("minicpm3", {"scale_depth": "DEL", "scale_emb": "DEL", "dim_model_base": "DEL"}),
    ("minicpm3", {"rms_norm_eps": "DEL"}),
    ("qwen3_5", {"rope_parameters": {"mrope_section": [2, 1, 1], "partial_rotary_factor": 1.0, "rope_theta": 777.0,
                 "rope_type": "default"}}),
    ("qwen3_5", {"rms_norm_eps": "DEL"}),
    ("qwen3_5_moe", {"num_experts_per_tok": 1, "norm_topk_prob": False}),
    ("gpt_oss", {"rope_scaling": "DEL"}),
    ("gpt_oss", {"sliding_window": 5, "layer_types": ["full_attention", "sliding_attention"]}),
    ("gpt_oss", {"swiglu_alpha": 2.0, "swiglu_limit": 1.0}),
    # Without LongRoPE: transformers 5.24 never uses this family's long factors.
    ("phi3_moe", {"rope_scaling": None, "router_jitter_noise": 0.3}),
    ("phi3_moe", {"rope_scaling": None, "sliding_window": 5, "rms_norm_eps": "DEL"}),
    ("ministral3-text", {"sliding_window": 5}),
]


def variant(folder, name, changes):
    for file in (MODELS / name).iterdir():
        if file.name not in ("logits.safetensors", "tokenize.json", "gguf.json"):
            shutil.copyfile(file, folder / file.name)
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        if value == "DEL":
            config.pop(key, None)
        else:
            config[key] = value
    (folder / "config.json").write_text(json.dumps(config))


def quern(binary, folder):
    args = ["-p", PROMPT, "-n", "1", "--temp", "0", "--logprobs", "1", "--kv", "f32", "--json"]
    done = subprocess.run([binary, "run", folder, *args], capture_output=True, text=True)
    if done.returncode:
        return None, done.stderr.strip()
    token = json.loads(done.stdout)["logprobs"][0]
    return token["id"], token["logprob"]


def reference(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        row = torch.log_softmax(model(ids).logits[0, -1], -1)
    return int(row.argmax()), float(row.max())


def main():
    wrong = 0
    for name, changes in VARIANTS:
        if sys.argv[2:] and name not in sys.argv[2:]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            variant(pathlib.Path(folder), name, changes)
            found, wanted = quern(sys.argv[1], folder), reference(folder)
        if found[0] is None:
            named = any(key in found[1] or str(value) in found[1].lower() for key, value in changes.items())
            outcome = "refused" if named else "WRONG"
        else:
            outcome = "ok" if found[0] == wanted[0] and abs(found[1] - wanted[1]) < 2e-4 else "WRONG"
        wrong += outcome == "WRONG"
        print(f"{outcome:7}", name, json.dumps(changes), found, wanted, flush=True)
    return 1 if wrong else 0


sys.exit(main())
