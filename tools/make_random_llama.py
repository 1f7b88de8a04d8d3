#!/usr/bin/env python3
"""Writes a Llama checkpoint with random weights, for benchmarks where only the shape matters.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install numpy
    /tmp/venv/bin/python tools/make_random_llama.py --shape 1.1b --tokenizer fixtures/bookworm-4m -o /tmp/llama-1b

Weights are normal with a standard deviation of 0.02, float16, in one model.safetensors written tensor
by tensor. The tokenizer of --tokenizer is copied, its vocabulary padded by unused ids, so that the
result can be converted, run and measured. The numbers depend on the seed alone.
"""
import argparse
import json
import os
import shutil
import struct

import numpy as np

SHAPES = {
    # hidden, ffn, layers, heads, kv heads, vocabulary, context
    "1.1b": (2048, 5632, 22, 32, 4, 32000, 2048),  # TinyLlama
    "7b": (4096, 14336, 32, 32, 8, 32000, 4096),  # Mistral
    "27m": (512, 1536, 6, 8, 4, 8192, 2048),  # bookworm-27m
    "tiny": (256, 512, 2, 4, 2, 4096, 256),
}


def tensors(hidden, ffn, layers, heads, kv_heads, vocab):
    head = hidden // heads
    yield "model.embed_tokens.weight", (vocab, hidden)
    for i in range(layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (hidden,)
        yield p + "self_attn.q_proj.weight", (heads * head, hidden)
        yield p + "self_attn.k_proj.weight", (kv_heads * head, hidden)
        yield p + "self_attn.v_proj.weight", (kv_heads * head, hidden)
        yield p + "self_attn.o_proj.weight", (hidden, heads * head)
        yield p + "post_attention_layernorm.weight", (hidden,)
        yield p + "mlp.gate_proj.weight", (ffn, hidden)
        yield p + "mlp.up_proj.weight", (ffn, hidden)
        yield p + "mlp.down_proj.weight", (hidden, ffn)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocab, hidden)


def parse(description, shape):
    args = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--shape", choices=SHAPES, default=shape)
    args.add_argument("--tokenizer", required=True, help="directory whose tokenizer files are copied")
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("-o", "--output", required=True)
    return args.parse_args()


def configure(args, **more):
    """Makes the directory, with the tokenizer and config.json, which has `more` keys at its end."""
    hidden, ffn, layers, heads, kv_heads, vocab, context = SHAPES[args.shape]
    os.makedirs(args.output, exist_ok=True)
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        source = os.path.join(args.tokenizer, name)
        if os.path.exists(source):
            shutil.copy(source, args.output)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "bos_token_id": 1, "eos_token_id": 2, "hidden_size": hidden, "intermediate_size": ffn,
        "max_position_embeddings": context, "num_attention_heads": heads, "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "torch_dtype": "float16", "vocab_size": vocab, **more,
    }
    with open(os.path.join(args.output, "config.json"), "w") as f:
        json.dump(config, f, indent=2)


def write(args, parts):
    """Writes tensors (name, dtype, shape, what makes the numbers from a generator) one after the other."""
    plan, offset = {}, 0
    for name, dtype, shape, _ in parts:
        size = {"F16": 2, "I32": 4}[dtype] * int(np.prod(shape))
        plan[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(plan, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    rng = np.random.default_rng(args.seed)
    with open(os.path.join(args.output, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(header)) + header)
        for *_, make in parts:
            f.write(make(rng).tobytes())
    print(f"{args.output}: {offset / 1e9:.2f} GB")


def numbers(name, shape):
    """What makes a tensor."""
    if name.endswith("norm.weight"):
        return lambda rng: np.ones(shape, np.float16)
    return lambda rng: (rng.standard_normal(shape, np.float32) * np.float32(0.02)).astype(np.float16)


def main():
    args = parse(__doc__, "1.1b")
    configure(args)
    write(args, [(name, "F16", shape, numbers(name, shape)) for name, shape in tensors(*SHAPES[args.shape][:-1])])


if __name__ == "__main__":
    main()
