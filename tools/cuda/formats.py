"""The block formats as the CUDA kernels see them, random valid blocks of each, and reference decoders (numpy only).

Mirrors crates/compute/src/cuda/formats.rs. Decoders: the `gguf` package's `quants.dequantize`, and those below for what it
does not have. Used by check_formats.py and by check_matvec.py.
"""
import numpy as np

# name: (block values, block bytes, [(plane bytes, values a record)], [offsets of f16 fields in a block])
FORMATS = {
    "q4_0": (32, 18, [(16, 32), (2, 32)], [0]),
    "q4_1": (32, 20, [(16, 32), (4, 32)], [0, 2]),
    "q5_0": (32, 22, [(16, 32), (4, 32), (2, 32)], [0]),
    "q5_1": (32, 24, [(16, 32), (4, 32), (4, 32)], [0, 2]),
    "q8_0": (32, 34, [(16, 32), (16, 32), (2, 32)], [0]),
    "iq4_nl": (32, 18, [(16, 32), (2, 32)], [0]),
    "nf4": (32, 18, [(16, 32), (2, 32)], [0]),
    "fp4": (32, 18, [(16, 32), (2, 32)], [0]),
    "mxfp4": (32, 17, [(16, 32), (1, 32)], []),
    "nvfp4": (64, 36, [(16, 32), (2, 32)], []),
    "q1_0": (128, 18, [(4, 32), (2, 128)], [0]),
    "q2_0": (64, 18, [(8, 32), (2, 64)], [0]),
    "q2_K": (256, 84, [(8, 32), (2, 32), (4, 256)], [80, 82]),
    "q3_K": (256, 110, [(8, 32), (4, 32), (1, 32), (4, 256), (2, 256)], [108]),
    "q4_K": (256, 144, [(16, 32), (16, 256)], [0, 2]),
    "q5_K": (256, 176, [(16, 32), (4, 32), (16, 256)], [0, 2]),
    "q6_K": (256, 210, [(16, 32), (8, 32), (2, 32), (2, 256)], [208]),
    "iq4_xs": (256, 136, [(16, 32), (8, 256)], [0]),
    "tq1_0": (256, 54, [(8, 32), (2, 256)], [52]),
    "tq2_0": (256, 66, [(8, 32), (2, 256)], [64]),
    "iq1_s": (256, 50, [(4, 32), (2, 32), (2, 256)], [0]),
    "iq1_m": (256, 56, [(4, 32), (2, 32), (8, 256)], []),
    "iq2_xxs": (256, 66, [(8, 32), (2, 256)], [0]),
    "iq2_xs": (256, 74, [(8, 32), (1, 32), (2, 256)], [0]),
    "iq2_s": (256, 82, [(8, 32), (2, 32), (2, 256)], [0]),
    "iq3_xxs": (256, 98, [(8, 32), (4, 32), (2, 256)], [0]),
    "iq3_s": (256, 110, [(8, 32), (4, 32), (1, 32), (4, 256), (2, 256)], [0]),
}
FLOATS = {"f16": 2, "bf16": 2, "f32": 4}

NF4 = np.array([-124, -86, -65, -49, -35, -23, -11, 0, 10, 20, 31, 42, 55, 70, 90, 124], np.float32)
FP4 = np.array([0, 1, 80, 120, 40, 60, 20, 30, 0, -1, -80, -120, -40, -60, -20, -30], np.float32)


def plane_bytes(name, rows, columns):
    return [rows * (columns // values) * size for size, values in FORMATS[name][2]]


def random_blocks(name, count, rng, scale=0.01):
    """`count` random blocks whose scales are finite and about `scale` in magnitude."""
    _, size, _, halfs = FORMATS[name]
    b = rng.integers(0, 256, (count, size), dtype=np.uint8)
    f16 = lambda: (rng.uniform(0.2, 1.0, count) * scale * rng.choice([-1, 1], count)).astype(np.float16)
    for at in halfs:
        b[:, at:at + 2] = f16().view(np.uint8).reshape(count, 2)
    if name == "mxfp4":
        b[:, 0] = rng.integers(115, 127, count)
    if name == "nvfp4":
        b[:, :4] = rng.integers(0, 0x7f, (count, 4))
    if name == "tq1_0":  # a byte is ceil(256 n / 243) of a number n of five digits, or of four
        b[:, :48] = (rng.integers(0, 243, (count, 48)) * 256 + 242) // 243
        b[:, 48:52] = (rng.integers(0, 81, (count, 4)) * 3 * 256 + 242) // 243
    if name == "iq1_m":
        d = f16().view(np.uint16)
        words = b[:, 48:56].copy().view(np.uint16) & 0xfff
        for i in range(4):
            words[:, i] |= ((d >> (4 * i)) & 15) << 12
        b[:, 48:56] = words.view(np.uint8)
    return b


def decode(name, blocks):
    """Values of blocks [count, block bytes] as f32 [count, block values]."""
    count = len(blocks)
    half = lambda at: blocks[:, at:at + 2].copy().view(np.float16).astype(np.float32)
    if name in ("nf4", "fp4"):
        table, step = (NF4, np.float32(1 / 124.125)) if name == "nf4" else (FP4, np.float32(1 / 120))
        codes = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
        return half(0) * step * table[codes]
    if name == "q1_0":
        bits = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little").astype(np.float32)
        return half(0) * (2 * bits - 1)
    if name == "q2_0":
        codes = np.stack([(blocks[:, 2:] >> (2 * k)) & 3 for k in range(4)], axis=2).reshape(count, 64)
        return half(0) * (codes.astype(np.float32) - 1)
    import gguf
    return gguf.quants.dequantize(blocks.reshape(-1), gguf.GGMLQuantizationType[name.upper()]).reshape(count, -1)
