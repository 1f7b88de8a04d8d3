#!/usr/bin/env python3
"""Makes golden bytes for the encoders of crates/quantize that no file of llama-quantize covers.

Most encoders are tested with the hashes of whole files (fixtures/golden/bookworm-4m.llama-quantize.json).
mxfp4 appears in none of them, because llama-quantize writes it only for models with experts: gguf-py writes it
here. The types with codebooks, nvfp4, q1_0 and q2_0 are encoded by ggml itself, with and without importance
where they can be encoded without, on values that real weights do not contain (only zeros, tiny values,
values on the grid, outliers, importance that is zero).

    python3 -m venv /tmp/gg && /tmp/gg/bin/pip install gguf numpy
    /tmp/gg/bin/python tools/make_encode_golden.py fixtures/golden/encode LIBGGML

LIBGGML is the libggml-base.so of a llama.cpp build for plain x86-64 (cmake -DBUILD_SHARED_LIBS=ON
-DGGML_NATIVE=OFF): with fused multiply-add some bytes differ.

Writes mxfp4.f32, mxfp4.blocks; ggml.f32 (rows of 512), ggml.weights (one row) and TYPE.plain.blocks,
TYPE.weighted.blocks (little endian). Same numpy, gguf and ggml: same bytes.
"""

import ctypes
import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import quantize

BLOCKS = 64
COLUMNS = 512

# ggml's ids and bytes per 256 values; the second list cannot be encoded without importance.
OPTIONAL = {"iq3_xxs": (18, 98), "iq3_s": (21, 110), "iq2_s": (22, 82), "iq1_m": (29, 56), "nvfp4": (40, 144),
            "q1_0": (41, 36), "q2_0": (42, 72)}
REQUIRED = {"iq2_xxs": (16, 66), "iq2_xs": (17, 74), "iq1_s": (19, 50)}


def mxfp4(folder: Path) -> None:
    random = np.random.default_rng(4)
    x = random.standard_normal((BLOCKS, 32)).astype(np.float32)
    x *= np.float32(2.0) ** random.integers(-20, 20, (BLOCKS, 1)).astype(np.float32)
    x[0] = 0  # all zero
    x[1] = np.arange(32) - 16  # ties between neighbours, exact powers of two
    x[2] = np.arange(32) * 0.125 - 2
    x[3] = 0.5
    x[4, ::2] = -0.0
    x[5, 3] = 1000  # one outlier
    x[6, 7] = 4  # the largest is a power of two
    x.astype("<f4").tofile(folder / "mxfp4.f32")
    quantize(x, T.MXFP4).tofile(folder / "mxfp4.blocks")


def values(random) -> np.ndarray:
    x = random.standard_normal((10, COLUMNS)).astype(np.float32)
    x *= np.exp(random.standard_normal((10, 1)) * 2 - 3).astype(np.float32)
    x[0, :256] = 0
    x[0, 256:] *= np.float32(1e-30)
    x[1, :32] *= np.float32(1e-9)  # tiny for some types
    x[1, 32:64] = 0
    x[1, 64:80] = -0.0
    x[1, 256:] = 0.25
    x[1, 256::2] *= -1
    x[2, 7::64] *= 1000  # outliers
    x[3] = np.round(x[3] / np.abs(x[3]).max() * 3) * 0.5  # ties
    x[4] = np.abs(x[4])
    x[5] = -np.abs(x[5])
    x[6] = x[6] ** 3
    x[7] = np.float16(x[7])
    x[8, ::2] = 0
    x[9] *= 1000
    return x


def by_ggml(folder: Path, library) -> None:
    random = np.random.default_rng(5)
    x = values(random)
    weights = np.exp(random.standard_normal(COLUMNS)).astype(np.float32)
    weights[160:176] = 0
    weights[192:200] = 0
    x.astype("<f4").tofile(folder / "ggml.f32")
    weights.astype("<f4").tofile(folder / "ggml.weights")
    pointer = lambda a: None if a is None else a.ctypes.data_as(ctypes.c_void_p)
    for name, (number, size) in (OPTIONAL | REQUIRED).items():
        for case, given in (("plain", None), ("weighted", weights)):
            if given is None and name in REQUIRED:
                continue
            out = np.zeros(x.size // 256 * size, np.uint8)
            wrote = library.ggml_quantize_chunk(
                ctypes.c_int(number), pointer(x), pointer(out), ctypes.c_int64(0), ctypes.c_int64(len(x)),
                ctypes.c_int64(COLUMNS), pointer(given))
            assert wrote == out.size, (name, wrote, out.size)
            out.tofile(folder / f"{name}.{case}.blocks")


def main(folder: Path, library) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    mxfp4(folder)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    by_ggml(folder, library)


if __name__ == "__main__":
    main(Path(sys.argv[1]), ctypes.CDLL(sys.argv[2]))
