#!/usr/bin/env python3
"""Checks repack.cuh and decode.cuh on a machine without a card: compiled for the host (g++), every block format's random
blocks go through repack and decode and must equal the reference decoder's values; the recorded blocks in
fixtures/golden/decode likewise.

    python3 tools/cuda/check_formats.py [FORMAT...]        (needs g++, numpy and the gguf package)
"""
import pathlib, subprocess, sys, tempfile
import numpy as np
import formats

here = pathlib.Path(__file__).resolve().parent
golden = here.parent.parent / "fixtures/golden/decode"


def main():
    names = sys.argv[1:] or list(formats.FORMATS)
    rng, bad = np.random.default_rng(1), 0
    with tempfile.TemporaryDirectory() as tmp:
        for name in names:
            values, size, planes, _ = formats.FORMATS[name]
            binary = f"{tmp}/{name}"
            subprocess.run(["g++", "-O1", "-std=c++17", "-w", f"-DFORMAT={name.upper()}", str(here / "check_formats.cpp"),
                            "-o", binary], check=True)
            rows, columns = 37, 1024
            cases = [("random", rows, columns, formats.random_blocks(name, rows * columns // values, rng), None)]
            if (golden / f"{name}.blocks").exists():
                blocks = np.fromfile(golden / f"{name}.blocks", np.uint8).reshape(-1, size)
                cases.append(("golden", 1, len(blocks) * values, blocks, np.fromfile(golden / f"{name}.f32", np.float32)))
            for label, rows, columns, blocks, want in cases:
                sizes = formats.plane_bytes(name, rows, columns)
                if want is None:
                    want = formats.decode(name, blocks)
                run = subprocess.run([binary, str(rows), str(columns), ",".join(map(str, sizes))],
                                     input=blocks.tobytes(), capture_output=True, check=True)
                got, want = np.frombuffer(run.stdout, np.float32), want.reshape(-1)
                scale = np.maximum(np.abs(want), 1e-30 + np.abs(want).max() * 1e-3)
                worst = float(np.max(np.abs(got - want) / scale)) if got.size == want.size else float("inf")
                ok = worst < 2e-6 or (np.array_equal(got, want))
                bad += not ok
                share = sum(sizes) / blocks.size
                print(f"{name:8} {label} {'ok ' if ok else 'BAD'} largest relative error {worst:.1e}, "
                      f"planes / file bytes {share:.4f}")
    sys.exit(bad != 0)


main()
