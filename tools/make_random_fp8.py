#!/usr/bin/env python3
"""Writes a Llama checkpoint with random weights in FP8, as DeepSeek, Qwen and MiniMax publish theirs.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install numpy torch
    /tmp/venv/bin/python tools/make_random_fp8.py --shape 1.1b --tokenizer fixtures/bookworm-4m -o /tmp/llama-1b-fp8

The linear layers of the blocks are e4m3 with a scale for each 128 x 128 weights (weight_scale_inv); the rest is bfloat16.
For benchmarks, where only shape and form matter: tools/time_fp8.sh.
"""
import json
import os
import struct

import torch

import make_random_llama as plain

BLOCK = 128


def layer(shape):
    """A weight in e4m3 and its scales."""
    weight = torch.randn(shape) * 0.02
    rows, columns = shape
    across = torch.nn.functional.pad(weight, (0, -columns % BLOCK, 0, -rows % BLOCK))
    blocks = across.view(across.shape[0] // BLOCK, BLOCK, across.shape[1] // BLOCK, BLOCK)
    scale = blocks.abs().amax((1, 3)).clamp(min=1e-12) / 448
    packed = (blocks / scale[:, None, :, None]).view(across.shape)[:rows, :columns]
    return packed.contiguous().to(torch.float8_e4m3fn), scale


def parts(shapes):
    for name, shape in shapes:
        if len(shape) == 2 and "proj" in name:
            weight, scale = layer(shape)
            yield name, "F8_E4M3", shape, weight.view(torch.uint8)
            yield name + "_scale_inv", "F32", tuple(scale.shape), scale
        else:
            value = torch.ones(shape) if len(shape) == 1 else torch.randn(shape) * 0.02
            yield name, "BF16", shape, value.to(torch.bfloat16).view(torch.int16)


def main():
    args = plain.parse(__doc__, "1.1b")
    method = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}
    plain.configure(args, quantization_config=method)
    hidden, ffn, layers, heads, kv_heads, vocab, _ = plain.SHAPES[args.shape]
    torch.manual_seed(args.seed)
    header, at, path = {}, 0, os.path.join(args.output, "model.safetensors")
    with open(path + ".data", "wb") as data:
        for name, kind, shape, value in parts(plain.tensors(hidden, ffn, layers, heads, kv_heads, vocab)):
            size = data.write(value.contiguous().numpy().tobytes())
            header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + size]}
            at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file, open(path + ".data", "rb") as data:
        file.write(struct.pack("<Q", len(text)) + text)
        while piece := data.read(1 << 24):
            file.write(piece)
    os.remove(path + ".data")


if __name__ == "__main__":
    main()
