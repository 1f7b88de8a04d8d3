#!/usr/bin/env python3
"""Golden bytes for the mxfp4 encoder of crates/quantize, made by gguf-py's quantizer.

The other encoders are held against the hashes of files llama-quantize wrote
(fixtures/golden/bookworm-4m.llama-quantize.json); mxfp4 appears in none of them, because llama-quantize
writes it only for models with experts.

    python3 -m venv /tmp/gg && /tmp/gg/bin/pip install gguf numpy
    /tmp/gg/bin/python tools/make_encode_golden.py fixtures/golden/encode

Writes mxfp4.f32 and mxfp4.blocks (little endian). Same numpy and gguf: same bytes.
"""

import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import quantize

BLOCKS = 64


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
