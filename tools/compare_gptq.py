#!/usr/bin/env python3
"""Compares two GPTQ checkpoints of one model, module by module: how many codes are equal, how far scales are apart.

    compare_gptq.py A B [--reports A.json B.json] [--modules]

Reports are what `quern quantize --json` prints; with them, losses are compared. Needs numpy and safetensors.
"""

import argparse
import json
import pathlib

import numpy
from safetensors import safe_open


def tensors(folder):
    found = {}
    for file in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with safe_open(file, "np") as opened:
            for name in opened.keys():
                if name.rsplit(".", 1)[-1] in ("qweight", "scales", "qzeros"):
                    found[name] = opened.get_tensor(name)
    return found


def codes(words, bits):
    """The codes of packed words, [columns][rows]."""
    bytes_ = numpy.ascontiguousarray(words.T).view(numpy.uint8)
    stream = numpy.unpackbits(bytes_.reshape(words.shape[1], -1), axis=1, bitorder="little")
    stream = stream.reshape(words.shape[1], -1, bits)
    return (stream * (1 << numpy.arange(bits))).sum(axis=2)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--reports", nargs=2)
    parser.add_argument("--modules", action="store_true")
    args = parser.parse_args()
    bits = json.loads(pathlib.Path(args.a, "quantize_config.json").read_text())["bits"]
    a, b = tensors(args.a), tensors(args.b)
    assert a.keys() == b.keys(), "the same tensors"
    losses = [{}, {}]
    if args.reports:
        for kept, report in zip(losses, args.reports):
            modules = json.loads(pathlib.Path(report).read_text())["report"]["modules"]
            kept.update({m["module"]: m["loss"] for m in modules})
    equal = count = 0
    worst = 0.0
    for name in sorted(a):
        if not name.endswith(".qweight"):
            continue
        module = name.removesuffix(".qweight")
        same = codes(a[name], bits) == codes(b[name], bits)
        equal, count = equal + same.sum(), count + same.size
        scales = (a[module + ".scales"] == b[module + ".scales"]).mean()
        loss = ""
        if module in losses[0]:
            apart = losses[1][module] / losses[0][module] - 1
            worst = max(worst, abs(apart))
            loss = f", loss {apart:+.4%}"
        if args.modules:
            print(f"{module}: {same.mean():.4%} of codes, {scales:.4%} of scales{loss}")
    print(f"equal codes: {equal / count:.4%} of {count}; largest difference of a loss: {worst:.4%}")


main()
