#!/usr/bin/env python3
"""Golden bytes for the block decoders of crates/tensor-io, made by gguf-py's dequantizers.

For each type: a few blocks of random bytes with scales of ordinary size (the first block has scale
zero, the last a negative one), and the float32 values the reference makes of them.

    python3 -m venv /tmp/gg && /tmp/gg/bin/pip install gguf numpy
    /tmp/gg/bin/python tools/make_decode_golden.py fixtures/golden/decode

Writes TYPE.blocks and TYPE.f32 (little endian). Same numpy and gguf: same bytes.
"""

import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T

BLOCKS = 6

# Where a block keeps its f16 scales, by ggml's structs.
SCALES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.IQ4_NL: [0], T.IQ4_XS: [0], T.TQ1_0: [52], T.TQ2_0: [64], T.MXFP4: [],
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (kind, scales) in enumerate(SCALES.items()):
        random = np.random.default_rng(1000 + number)
        values, size = GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
        for at in scales:
            scale = random.uniform(0.001, 0.3, BLOCKS).astype("<f2")
            scale[0], scale[-1] = 0, -scale[-1]
            blocks[:, at : at + 2] = scale.view(np.uint8).reshape(BLOCKS, 2)
        if kind is T.MXFP4:  # exponents: both subnormal cases, the middle, the largest whose products are finite
            blocks[:, 0] = [0, 1, 2, 120, 130, 252]
        if kind is T.TQ1_0:  # bytes as the encoder makes them: ceil(n * 256 / 243), and in qh with a zero last digit
            blocks[:, :48] = (random.integers(0, 243, (BLOCKS, 48)) * 256 + 242) // 243
            blocks[:, 48:52] = (random.integers(0, 81, (BLOCKS, 4)) * 3 * 256 + 242) // 243
        try:
            out = gguf.dequantize(blocks, kind).astype("<f4")
        except NotImplementedError:
            print(f"{kind.name}: no dequantizer in this gguf", file=sys.stderr)
            continue
        assert out.shape == (BLOCKS, values) and np.isfinite(out).all(), kind
        name = {"K": lambda n: n[:-1].lower() + "K"}.get(kind.name[-1], str.lower)(kind.name)
        (folder / f"{name}.blocks").write_bytes(blocks.tobytes())
        (folder / f"{name}.f32").write_bytes(out.tobytes())
        print(name, size, values)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
