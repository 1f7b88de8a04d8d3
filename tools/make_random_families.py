#!/usr/bin/env python3
"""Makes a checkpoint with random weights in the shape of a published model with parts that Llama does not have.

    python3 tools/make_random_families.py SHAPE OUTDIR [--layers N]

SHAPE is gpt-oss-20b (MXFP4 experts, as released), deepseek-v2-lite, qwen3.5-4b or nemotron-h-8b; --layers takes the first
N layers only. There is no tokenizer: such models are for `quern bench` and `quern quantize`. Needs torch; a GPU, if there
is one, makes the numbers.
"""

import argparse
import json
import pathlib
import struct

import torch

BF16, U8 = "BF16", "U8"
GPT_OSS = {
    "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880,
    "num_hidden_layers": 24, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 201088,
    "num_local_experts": 32, "num_experts_per_tok": 4, "sliding_window": 128, "rms_norm_eps": 1e-5, "rope_theta": 150000,
    "max_position_embeddings": 131072, "attention_bias": True, "swiglu_limit": 7.0, "hidden_act": "silu",
    "tie_word_embeddings": False,
    "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                     "original_max_position_embeddings": 4096},
    "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": [
        "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]},
}
DEEPSEEK = {
    "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "hidden_size": 2048,
    "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_hidden_layers": 27, "num_attention_heads": 16,
    "num_key_value_heads": 16, "kv_lora_rank": 512, "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
    "n_group": 1, "topk_group": 1, "topk_method": "greedy", "norm_topk_prob": False, "routed_scaling_factor": 1.0,
    "scoring_func": "softmax", "vocab_size": 102400, "rms_norm_eps": 1e-6, "rope_theta": 10000, "hidden_act": "silu",
    "max_position_embeddings": 163840, "tie_word_embeddings": False, "attention_bias": False,
    "rope_scaling": {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707,
                     "mscale_all_dim": 0.707, "original_max_position_embeddings": 4096},
}
QWEN = {
    "architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text", "hidden_size": 2560, "intermediate_size": 9216,
    "num_hidden_layers": 32, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 248320,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
    "linear_num_value_heads": 32, "rms_norm_eps": 1e-6, "hidden_act": "silu", "max_position_embeddings": 262144,
    "tie_word_embeddings": True, "attention_bias": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25,
                        "mrope_interleaved": True, "mrope_section": [11, 11, 10]},
}
NEMOTRON_H = {
    "architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h", "hidden_size": 4096, "intermediate_size": 21504,
    "num_hidden_layers": 52, "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "mamba_num_heads": 128, "mamba_head_dim": 64,
    "n_groups": 8, "ssm_state_size": 128, "conv_kernel": 4, "chunk_size": 128, "use_conv_bias": True, "use_bias": False,
    "mamba_proj_bias": False, "mlp_bias": False, "attention_bias": False, "mlp_hidden_act": "relu2",
    "layer_norm_epsilon": 1e-5, "vocab_size": 131072, "max_position_embeddings": 8192, "tie_word_embeddings": False,
}


def gpt_oss(c):
    hidden, ffn, experts = c["hidden_size"], c["intermediate_size"], c["num_local_experts"]
    query, key = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    for n in range(c["num_hidden_layers"]):
        at = f"model.layers.{n}."
        for name, rows in [("q", query), ("k", key), ("v", key)]:
            yield f"{at}self_attn.{name}_proj.weight", BF16, [rows, hidden]
            yield f"{at}self_attn.{name}_proj.bias", BF16, [rows]
        yield at + "self_attn.o_proj.weight", BF16, [hidden, query]
        yield at + "self_attn.o_proj.bias", BF16, [hidden]
        yield at + "self_attn.sinks", BF16, [c["num_attention_heads"]]
        yield at + "mlp.router.weight", BF16, [experts, hidden]
        yield at + "mlp.router.bias", BF16, [experts]
        for name, rows, columns in [("gate_up_proj", 2 * ffn, hidden), ("down_proj", hidden, ffn)]:
            yield f"{at}mlp.experts.{name}_blocks", U8, [experts, rows, columns // 32, 16]
            yield f"{at}mlp.experts.{name}_scales", U8, [experts, rows, columns // 32]
            yield f"{at}mlp.experts.{name}_bias", BF16, [experts, rows]
        yield at + "input_layernorm.weight", BF16, [hidden]
        yield at + "post_attention_layernorm.weight", BF16, [hidden]


def gated(at, hidden, ffn):
    yield at + "gate_proj.weight", BF16, [ffn, hidden]
    yield at + "up_proj.weight", BF16, [ffn, hidden]
    yield at + "down_proj.weight", BF16, [hidden, ffn]


def deepseek(c):
    hidden, heads, rank, rope = c["hidden_size"], c["num_attention_heads"], c["kv_lora_rank"], c["qk_rope_head_dim"]
    nope, value = c["qk_nope_head_dim"], c["v_head_dim"]
    for n in range(c["num_hidden_layers"]):
        at = f"model.layers.{n}."
        yield at + "self_attn.q_proj.weight", BF16, [heads * (nope + rope), hidden]
        yield at + "self_attn.kv_a_proj_with_mqa.weight", BF16, [rank + rope, hidden]
        yield at + "self_attn.kv_a_layernorm.weight", BF16, [rank]
        yield at + "self_attn.kv_b_proj.weight", BF16, [heads * (nope + value), rank]
        yield at + "self_attn.o_proj.weight", BF16, [hidden, heads * value]
        yield at + "input_layernorm.weight", BF16, [hidden]
        yield at + "post_attention_layernorm.weight", BF16, [hidden]
        if n < c["first_k_dense_replace"]:
            yield from gated(at + "mlp.", hidden, c["intermediate_size"])
            continue
        yield at + "mlp.gate.weight", BF16, [c["n_routed_experts"], hidden]
        for expert in range(c["n_routed_experts"]):
            yield from gated(f"{at}mlp.experts.{expert}.", hidden, c["moe_intermediate_size"])
        yield from gated(at + "mlp.shared_experts.", hidden, c["n_shared_experts"] * c["moe_intermediate_size"])


def qwen(c):
    hidden, dim = c["hidden_size"], c["head_dim"]
    keys = c["linear_num_key_heads"] * c["linear_key_head_dim"]
    heads, values = c["linear_num_value_heads"], c["linear_num_value_heads"] * c["linear_value_head_dim"]
    for n in range(c["num_hidden_layers"]):
        at = f"model.layers.{n}."
        if c["layer_types"][n] == "linear_attention":
            yield at + "linear_attn.in_proj_qkv.weight", BF16, [2 * keys + values, hidden]
            yield at + "linear_attn.in_proj_z.weight", BF16, [values, hidden]
            yield at + "linear_attn.in_proj_a.weight", BF16, [heads, hidden]
            yield at + "linear_attn.in_proj_b.weight", BF16, [heads, hidden]
            yield at + "linear_attn.conv1d.weight", BF16, [2 * keys + values, 1, c["linear_conv_kernel_dim"]]
            yield at + "linear_attn.A_log", BF16, [heads]
            yield at + "linear_attn.dt_bias", BF16, [heads]
            yield at + "linear_attn.norm.weight", BF16, [c["linear_value_head_dim"]]
            yield at + "linear_attn.out_proj.weight", BF16, [hidden, values]
        else:
            query, key = c["num_attention_heads"] * dim, c["num_key_value_heads"] * dim
            yield at + "self_attn.q_proj.weight", BF16, [2 * query, hidden]
            yield at + "self_attn.k_proj.weight", BF16, [key, hidden]
            yield at + "self_attn.v_proj.weight", BF16, [key, hidden]
            yield at + "self_attn.o_proj.weight", BF16, [hidden, query]
            yield at + "self_attn.q_norm.weight", BF16, [dim]
            yield at + "self_attn.k_norm.weight", BF16, [dim]
        yield from gated(at + "mlp.", hidden, c["intermediate_size"])
        yield at + "input_layernorm.weight", BF16, [hidden]
        yield at + "post_attention_layernorm.weight", BF16, [hidden]


def nemotron_h(c):
    hidden, heads = c["hidden_size"], c["mamba_num_heads"]
    inner, groups = heads * c["mamba_head_dim"], c["n_groups"] * c["ssm_state_size"]
    query, key = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    for n, kind in enumerate(c["hybrid_override_pattern"]):
        at = f"backbone.layers.{n}.mixer."
        yield f"backbone.layers.{n}.norm.weight", BF16, [hidden]
        if kind == "M":
            yield at + "in_proj.weight", BF16, [2 * inner + 2 * groups + heads, hidden]
            yield at + "conv1d.weight", BF16, [inner + 2 * groups, 1, c["conv_kernel"]]
            yield at + "conv1d.bias", BF16, [inner + 2 * groups]
            for name in ("A_log", "D", "dt_bias"):
                yield at + name, BF16, [heads]
            yield at + "norm.weight", BF16, [inner]
            yield at + "out_proj.weight", BF16, [hidden, inner]
        elif kind == "*":
            for name, rows in [("q", query), ("k", key), ("v", key)]:
                yield f"{at}{name}_proj.weight", BF16, [rows, hidden]
            yield at + "o_proj.weight", BF16, [hidden, query]
        else:
            yield at + "up_proj.weight", BF16, [c["intermediate_size"], hidden]
            yield at + "down_proj.weight", BF16, [hidden, c["intermediate_size"]]


SHAPES = {"gpt-oss-20b": (GPT_OSS, gpt_oss), "deepseek-v2-lite": (DEEPSEEK, deepseek), "qwen3.5-4b": (QWEN, qwen),
          "nemotron-h-8b": (NEMOTRON_H, nemotron_h)}


def around(c, layers):
    hidden, vocab = c["hidden_size"], c["vocab_size"]
    backbone = c["model_type"] == "nemotron_h"
    yield "backbone.embeddings.weight" if backbone else "model.embed_tokens.weight", BF16, [vocab, hidden]
    yield from layers
    yield "backbone.norm_f.weight" if backbone else "model.norm.weight", BF16, [hidden]
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", BF16, [vocab, hidden]


def values(name, dtype, shape, device):
    if dtype == U8:
        # Codes at random; scales near 2^-6 (127 is one).
        low, high = (120, 123) if name.endswith("_scales") else (0, 256)
        return torch.randint(low, high, shape, dtype=torch.uint8, device=device)
    if "norm" in name and len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    if name.endswith("A_log"):
        return torch.linspace(0.0, 2.7, shape[0]).to(torch.bfloat16)
    return (torch.randn(shape, device=device) * 0.02).to(torch.bfloat16)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--layers", type=int)
    args = parser.parse_args()
    config, layers = SHAPES[args.shape]
    if args.layers:
        config["num_hidden_layers"] = args.layers
    count = config["num_hidden_layers"]
    if "hybrid_override_pattern" in config:
        config["hybrid_override_pattern"] = config["hybrid_override_pattern"][:count]
    if config["model_type"] == "gpt_oss":
        config["layer_types"] = ["full_attention" if n % 2 else "sliding_attention" for n in range(count)]
    if config["model_type"] == "qwen3_5_text":
        config["layer_types"] = ["linear_attention" if (n + 1) % 4 else "full_attention" for n in range(count)]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}, indent=1))

    header, at, tensors = {}, 0, list(around(config, layers(config)))
    for name, dtype, shape in tensors:
        size = torch.Size(shape).numel() * (1 if dtype == U8 else 2)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(1)
    with open(args.out / "model.safetensors", "wb", buffering=0) as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for name, dtype, shape in tensors:
            data = values(name, dtype, shape, device)
            file.write(data.view(torch.uint8).cpu().numpy().tobytes())
    print(f"{args.out}: {at / 1e9:.1f} GB")


main()
