#!/usr/bin/env python3
"""Writes a Llama checkpoint whose linear layers are GPTQ with random codes (4 bits, groups of 128, symmetric), for
benchmarks where only the shape matters.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install numpy
    /tmp/venv/bin/python tools/make_random_gptq.py --shape 7b --tokenizer fixtures/bookworm-4m -o /tmp/llama-7b-gptq

Shapes, configuration and tokenizer are those of make_random_llama.py, which lies beside this file.
"""
import argparse
import json
import os
import shutil
import struct

import numpy as np

from make_random_llama import SHAPES, tensors

GROUP = 128


def parts(name, shape):
    """The tensors that hold a matrix: name, dtype, shape, and a function that makes the numbers."""
    if not name.endswith("proj.weight"):
        deviation = 0.05 if len(shape) == 1 else 0.02
        middle = 1.0 if len(shape) == 1 else 0.0
        yield name, "F16", shape, lambda r: (middle + deviation * r.standard_normal(shape, np.float32)).astype(np.float16)
        return
    stem, (rows, columns) = name[: -len("weight")], shape
    groups = columns // GROUP
    yield stem + "qweight", "I32", (columns // 8, rows), lambda r: r.integers(-(2**31), 2**31, (columns // 8, rows), np.int32)
    # Zero points of 8, which the first version of the format stores less one.
    yield stem + "qzeros", "I32", (groups, rows // 8), lambda r: np.full((groups, rows // 8), 0x77777777, np.int32)
    yield stem + "scales", "F16", (groups, rows), lambda r: (0.004 * (0.5 + r.random((groups, rows)))).astype(np.float16)
    yield stem + "g_idx", "I32", (columns,), lambda r: (np.arange(columns) // GROUP).astype(np.int32)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--shape", choices=SHAPES, default="7b")
    args.add_argument("--tokenizer", required=True, help="directory whose tokenizer files are copied")
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("-o", "--output", required=True)
    args = args.parse_args()
    hidden, ffn, layers, heads, kv_heads, vocab, context = SHAPES[args.shape]
    os.makedirs(args.output, exist_ok=True)
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        source = os.path.join(args.tokenizer, name)
        if os.path.exists(source):
            shutil.copy(source, args.output)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "bos_token_id": 1, "eos_token_id": 2, "hidden_size": hidden, "intermediate_size": ffn,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "vocab_size": vocab, "max_position_embeddings": context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "torch_dtype": "float16",
        "quantization_config": {
            "quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True,
            "checkpoint_format": "gptq",
        },
    }
    with open(os.path.join(args.output, "config.json"), "w") as file:
        json.dump(config, file, indent=2)
    size = {"F16": 2, "I32": 4}
    everything = [part for name, shape in tensors(hidden, ffn, layers, heads, kv_heads, vocab) for part in parts(name, shape)]
    header, at = {}, 0
    for name, dtype, shape, _ in everything:
        length = size[dtype] * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + length]}
        at += length
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(args.seed)
    with open(os.path.join(args.output, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for *_, make in everything:
            file.write(make(random).tobytes())


if __name__ == "__main__":
    main()
