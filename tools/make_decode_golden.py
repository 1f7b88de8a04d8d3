#!/usr/bin/env python3
"""Makes golden bytes for the block decoders of crates/tensor-io with gguf-py's dequantizers.

For each type: a few blocks of random bytes with scales of ordinary size (the first block has scale
zero, the last a negative one), and the float32 values the reference makes of them. Types with a codebook
get as many blocks as it takes to show every point of the grid once.

    python3 -m venv /tmp/gg && /tmp/gg/bin/pip install gguf numpy
    /tmp/gg/bin/python tools/make_decode_golden.py fixtures/golden/decode LIBGGML

LIBGGML is the libggml-base.so of a llama.cpp build (cmake -DBUILD_SHARED_LIBS=ON): the values are its
dequantize_row_*'s, and gguf-py must agree wherever it has a dequantizer (it has none for q1_0 and q2_0; a gguf
that knows q2_0 at all is in llama.cpp's gguf-py folder).

Writes TYPE.blocks and TYPE.f32 (little endian). Same numpy and gguf: same bytes.
"""

import ctypes
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
    T.IQ1_S: [0], T.IQ1_M: [], T.IQ2_XXS: [0], T.IQ2_XS: [0], T.IQ2_S: [0], T.IQ3_XXS: [0], T.IQ3_S: [0],
    T.NVFP4: [], T.Q1_0: [0], T.Q2_0: [0],
}

# Points in the grid, values in a point, where a block keeps the low 8 bits of the indices, and (byte, bit) of
# the higher ones of the index k.
GRIDS = {
    T.IQ1_S: (2048, 8, lambda k: 2 + k, lambda k, bit: (34 + k // 4 * 2 + (k % 4 * 3 + bit) // 8, (k % 4 * 3 + bit) % 8)),
    T.IQ1_M: (2048, 8, lambda k: k, lambda k, bit: (32 + k // 2, k % 2 * 4 + bit)),
    T.IQ2_XXS: (256, 8, lambda k: 2 + k // 4 * 8 + k % 4, None),
    T.IQ2_XS: (512, 8, lambda k: 2 + 2 * k, lambda k, bit: (3 + 2 * k, bit)),
    T.IQ2_S: (1024, 8, lambda k: 2 + k, lambda k, bit: (66 + k // 4, k % 4 * 2 + bit)),
    T.IQ3_XXS: (256, 4, lambda k: 2 + k, None),
    T.IQ3_S: (512, 4, lambda k: 2 + k, lambda k, bit: (66 + k // 8, k % 8)),
}


def spelling(kind) -> str:
    """ggml's name: q4_K, iq4_xs."""
    return kind.name[:-1].lower() + "K" if kind.name[-1] == "K" else kind.name.lower()


def every_point(blocks, points, low, high) -> None:
    """Writes the indices 0, 1, 2... into the blocks, one after another."""
    for index in range(points):
        block, k = index * len(blocks) // points, index % (points // len(blocks))
        blocks[block, low(k)] = index & 255
        for bit in range((points - 1).bit_length() - 8):
            at, shift = high(k, bit)
            blocks[block, at] = blocks[block, at] & (255 ^ 1 << shift) | (index >> 8 + bit & 1) << shift


def by_ggml(library, kind, blocks, values):
    out = np.empty((len(blocks), values), "<f4")
    decode = getattr(library, f"dequantize_row_{spelling(kind)}")
    decode(blocks.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(out.size))
    return out


def main(folder: Path, library) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (kind, scales) in enumerate(SCALES.items()):
        random = np.random.default_rng(1000 + number)
        values, size = GGML_QUANT_SIZES[kind]
        points, width, low, high = GRIDS.get(kind, (0, 1, None, None))
        count = max(BLOCKS, points * width // values)
        blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
        if points * width >= count * values:
            every_point(blocks, points, low, high)
        for at in scales:
            scale = random.uniform(0.001, 0.3, count).astype("<f2")
            scale[0], scale[-1] = 0, -scale[-1]
            blocks[:, at : at + 2] = scale.view(np.uint8).reshape(count, 2)
        if kind is T.MXFP4:  # exponents: both subnormal cases, the middle, the largest whose products are finite
            blocks[:, 0] = [0, 1, 2, 120, 130, 252]
        if kind is T.TQ1_0:  # bytes as the encoder makes them: ceil(n * 256 / 243), and in qh with a zero last digit
            blocks[:, :48] = (random.integers(0, 243, (BLOCKS, 48)) * 256 + 242) // 243
            blocks[:, 48:52] = (random.integers(0, 81, (BLOCKS, 4)) * 3 * 256 + 242) // 243
        if kind is T.IQ1_M:  # the f16 scale, four bits on top of each u16
            scale = random.uniform(0.001, 0.3, count).astype("<f2")
            scale[0], scale[-1] = 0, -scale[-1]
            for i in range(4):
                blocks[:, 49 + 2 * i] = blocks[:, 49 + 2 * i] & 15 | (scale.view("<u2") >> 4 * i & 15) << 4
        if kind is T.NVFP4:  # the top bit of a scale has no meaning; zero and NaN (which ggml takes for zero)
            blocks[:, :4] &= 127
            blocks[0, :4] = [0, 0x7F, 1, 0x7E]
        out = by_ggml(library, kind, blocks, values)
        try:
            assert np.array_equal(gguf.dequantize(blocks, kind).astype("<f4").view("<u4"), out.view("<u4")), kind
        except NotImplementedError:
            print(f"{kind.name}: no dequantizer in this gguf, ggml's alone", file=sys.stderr)
        assert out.shape == (count, values) and np.isfinite(out).all(), kind
        name = spelling(kind)
        (folder / f"{name}.blocks").write_bytes(blocks.tobytes())
        (folder / f"{name}.f32").write_bytes(out.tobytes())
        print(name, size, values)


if __name__ == "__main__":
    main(Path(sys.argv[1]), ctypes.CDLL(sys.argv[2]))
