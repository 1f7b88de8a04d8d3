#!/usr/bin/env python3
"""Writes a Llama checkpoint whose linear layers are GPTQ with random codes (4 bits, groups of 128, symmetric), for
benchmarks where only the shape matters.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install numpy
    /tmp/venv/bin/python tools/make_random_gptq.py --shape 7b --tokenizer fixtures/bookworm-4m -o /tmp/llama-7b-gptq

Shapes, configuration and tokenizer are those of make_random_llama.py, which lies beside this file.
"""
import numpy as np

from make_random_llama import SHAPES, configure, parse, tensors, write

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
    args = parse(__doc__, "7b")
    configure(args, quantization_config={
        "quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True,
        "checkpoint_format": "gptq",
    })
    write(args, [part for name, shape in tensors(*SHAPES[args.shape][:-1]) for part in parts(name, shape)])


if __name__ == "__main__":
    main()
