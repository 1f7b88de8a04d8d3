#!/usr/bin/env python3
"""Trims a record of llama-quantize's results to what the quantizer's tests need.

    python3 tools/make_quantize_golden.py REFERENCE.json fixtures/golden

REFERENCE.json maps `TYPE/none` and `TYPE/imatrix` to {"file_size", "file_type", "tensors": {name: [type,
sha256 of the bytes]}}: run llama-quantize (x86-64 build) on the F16 GGUF of bookworm-4m for each type,
without and with fixtures/golden/bookworm-4m.imatrix.gguf, and hash each tensor's data.

Writes bookworm-4m.llama-quantize.json (hashes) and recipe-bookworm-4m.json
(every type, element types only). Needs no package.
"""
import json
import os
import sys


def main():
    reference, folder = sys.argv[1:]
    with open(reference) as f:
        results = json.load(f)
    with open(os.path.join(folder, "bookworm-4m.llama-quantize.json"), "w") as f:
        lines = (json.dumps(key) + ": " + json.dumps(value, separators=(",", ":")) for key, value in results.items())
        f.write("{\n" + ",\n".join(lines) + "\n}\n")
    names = list(next(iter(results.values()))["tensors"])
    types = {key: " ".join(value["tensors"][name][0] for name in names) for key, value in results.items()}
    with open(os.path.join(folder, "recipe-bookworm-4m.json"), "w") as f:
        lines = (json.dumps(key) + ": " + json.dumps(value) for key, value in types.items())
        f.write('{\n"tensors": ' + json.dumps(names) + ',\n"types": {\n' + ",\n".join(lines) + "\n}\n}\n")


if __name__ == "__main__":
    main()
