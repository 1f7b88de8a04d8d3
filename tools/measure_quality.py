"""Measures what every scheme costs in quality, on any model that quern quantizes.

    python3 tools/measure_quality.py QUERN MODEL TEXT… [--calibration F] [--samples 128] [--json OUT] [--plot OUT.svg]
                                     [--chunks 40] [--context 512] [--only REGEX] [--threads N] [--work DIR]
    python3 tools/measure_quality.py --json FILE [--plot OUT.svg] [--bits layers|model]

QUERN is the binary, MODEL an unquantized model (f16, bf16 or f32), each TEXT a file to score. Every scheme is written
into a temporary folder, measured with `quern perplexity --reference MODEL` on each text, and removed again. GGUF types
are measured plainly, with an importance matrix and with --calibrate, and `--to auto` at a few sizes with and without
--calibrate. Importance matrix and calibration come from --calibration, by default the text that comes with quern;
GPTQ, --calibrate and auto get --samples samples of --context tokens. Figures of AutoRound are published ones of this
project, for the model and texts they hold for.

The tables go to standard output as Markdown, progress to standard error. With --json the results are written to OUT
after every scheme (crates/inspect/data/quality.json is such a file), and schemes that OUT has already are not measured
again: an interrupted run resumes with the same command. Without QUERN, tables and plot are made of OUT alone. --only
measures the schemes whose label matches. --plot draws KL divergence over bits per weight (quality_plot.py).

Needs Python 3.9 and nothing else. The figures do not depend on the number of threads, but the seconds do.
"""

import argparse
import hashlib
import json
import math
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import quality_plot
import quality_tables

GGUF = ["f16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_1", "q4_k_m", "q4_k_s", "q4_0", "iq4_nl",
        "iq4_xs", "mxfp4", "q3_k_l", "q3_k_m", "q3_k_s", "iq3_m", "iq3_s", "iq3_xs", "iq3_xxs", "q2_k", "q2_k_s",
        "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "tq2_0", "tq1_0", "iq1_m", "iq1_s", "q2_0", "q1_0"]
# An importance matrix changes nothing in these.
PLAIN_ONLY = {"f16", "q8_0", "mxfp4", "tq2_0", "tq1_0", "q2_0", "q1_0"}
# quern and llama-quantize refuse these without an importance matrix.
IMATRIX_ONLY = {"q2_k_s", "iq3_xs", "iq3_xxs", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s"}
# --calibrate is for types that lose something.
NOT_CALIBRATED = {"f16"}
# Targets of --to auto, in bits per weight of the whole file.
AUTO_BITS = (3.0, 3.5, 4.0, 4.25, 4.5, 5.0, 5.5)
# Keys that an entry lacks if it has this value: they came after the first files were written.
DEFAULTS = {"calibrated": False}


def same_scheme(entry, keys):
    """Whether an entry has been measured with these keys."""
    wanted = {**DEFAULTS, **keys}
    return all(entry.get(key, DEFAULTS.get(key)) == value for key, value in wanted.items())


def schemes():
    """(label, keys of the entry, options of `quern quantize`) of everything to measure."""
    for name in GGUF:
        if name not in IMATRIX_ONLY:
            yield name, {"scheme": name, "imatrix": False}, []
        if name not in PLAIN_ONLY:
            yield f"{name} + imatrix", {"scheme": name, "imatrix": True}, []
        if name not in NOT_CALIBRATED:
            yield f"{name} + calibrate", {"scheme": name, "imatrix": False, "calibrated": True}, ["--calibrate"]
    for calibrated in (False, True):
        for bits in AUTO_BITS:
            keys = {"scheme": "auto", "imatrix": False, "calibrated": calibrated, "target_bpw": bits}
            options = ["--target-bpw", f"{bits:g}"] + (["--calibrate"] if calibrated else [])
            yield f"auto {bits:g}{' + calibrate' if calibrated else ''}", keys, options
    for bits in (8, 4, 3, 2):
        for group in (128, 32):
            for symmetric in (True, False):
                keys = {"scheme": "gptq", "imatrix": False, "bits": bits, "group_size": group, "symmetric": symmetric}
                options = ["--bits", str(bits), "--group-size", str(group)] + ([] if symmetric else ["--asym"])
                yield f"gptq {bits}-bit g{group}{'' if symmetric else ' asym'}", keys, options
    for name in ("nf4", "fp4"):
        for double in (True, False):
            keys = {"scheme": name, "imatrix": False, "block_size": 64, "double_quant": double}
            options = [] if double else ["--no-double-quant"]
            yield name + ("" if double else " --no-double-quant"), keys, options
    yield "int8", {"scheme": "int8", "imatrix": False}, []


class Failed(Exception):
    """quern did not do it; the text is what it said."""


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}")
    return done.stdout


def layer_bits(summary):
    """Bits per weight of the matrices of the blocks alone: without embedding, output head, norms and biases."""
    packed = summary.get("quantization") or {}
    if packed.get("bits_per_weight"):
        return packed["bits_per_weight"]
    matrices = [t for t in summary["tensors"]
                if re.search(r"(blk|layers|h)\.\d+\.", t["name"]) and len(t["shape"]) > 1]
    weights = sum(math.prod(t["shape"]) for t in matrices)
    return 8 * sum(t["bytes"] for t in matrices) / weights if weights else None


def measure(args, keys, options, work, imatrix):
    """The entry of one scheme."""
    out = work / "model"
    target = out.with_suffix(".gguf") if keys["scheme"] in (*GGUF, "auto") else out
    command = [args.quern, "quantize", args.model, "--to", keys["scheme"], "-o", target, *args.threads, *options]
    if keys["imatrix"]:
        command += ["--imatrix", imatrix()]
    if keys["scheme"] in ("gptq", "auto") or keys.get("calibrated"):
        command += ["--samples", str(args.samples), "--context", str(args.context)]
        command += ["--calibration", args.calibration] if args.calibration else []
    try:
        started = time.monotonic()
        run(command)
        seconds = time.monotonic() - started
        summary = json.loads(run([args.quern, "inspect", target, "--json"]))
        entry = {**keys, "bits_per_weight": round(summary["bits_per_weight"], 4),
                 "layer_bits_per_weight": round(layer_bits(summary), 4), "file_size": summary["file_size"],
                 "seconds": round(seconds, 1)}
        texts = []
        for text in args.texts:
            got = json.loads(run([args.quern, "perplexity", target, "--text", text, "--context", str(args.context),
                                  "--chunks", str(args.chunks), "--reference", args.model, "--json", *args.threads]))
            texts.append({"text": text.name, "tokens": got["tokens"],
                          "reference_perplexity": round(got["reference_perplexity"], 4),
                          **{key: round(got[key], 6) for key in
                             ("perplexity", "perplexity_ratio", "perplexity_ratio_stderr", "kl_mean", "kl_stderr",
                              "kl_p99", "top1_agreement")}})
    finally:
        shutil.rmtree(out, ignore_errors=True)
        out.with_suffix(".gguf").unlink(missing_ok=True)
    first = texts[0]
    entry.update({key: first[key] for key in ("kl_mean", "perplexity_ratio", "top1_agreement")})
    return {**entry, "texts": texts}


def head(args, before):
    """What the figures hold for."""
    summary = json.loads(run([args.quern, "inspect", args.model, "--json"]))
    cpu = pathlib.Path("/proc/cpuinfo")
    cpu = re.search(r"model name\s*:\s*(.*)", cpu.read_text()) if cpu.is_file() else None

    def text(path):
        return {"text": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    return {
        "about": before.get("about") or (
            "Quality of a model after quantization, measured by tools/measure_quality.py: mean KL divergence from the "
            "unquantized model in nats, perplexity as a multiple of its, share of tokens whose most probable "
            "continuation stays the same. The three figures of an entry hold for its first text. bits_per_weight "
            "counts the whole model, layer_bits_per_weight the matrices of the blocks alone."),
        "model": pathlib.Path(args.model).name,
        "parameters": summary["parameters"],
        "quern": run([args.quern, "--version"]).split()[-1],
        "machine": cpu.group(1) if cpu else "unknown",
        "context": args.context,
        "chunks": args.chunks,
        "calibration": text(args.calibration) if args.calibration else None,
        "texts": [text(path) for path in args.texts],
    }


def main():
    parser = argparse.ArgumentParser(description="Measures what every scheme costs in quality.")
    parser.add_argument("quern", nargs="?", help="the quern binary")
    parser.add_argument("model", nargs="?", help="an unquantized model")
    parser.add_argument("texts", nargs="*", type=pathlib.Path, help="texts to score")
    parser.add_argument("--calibration", type=pathlib.Path, help="text for importance matrix and GPTQ")
    parser.add_argument("--samples", type=int, default=128, help="samples of --context tokens for calibration")
    parser.add_argument("--plot", type=pathlib.Path, help="SVG to draw")
    parser.add_argument("--bits", choices=("layers", "model"), default="layers", help="which bits the plot counts")
    parser.add_argument("--json", type=pathlib.Path, help="file to write, and to resume from")
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--only", default="", help="regular expression on labels such as 'q4_k_m + imatrix'")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--work", type=pathlib.Path, help="folder for temporary models")
    args = parser.parse_args()
    if args.quern is None:
        if args.json is None:
            parser.error("name QUERN, MODEL and TEXT to measure, or --json FILE to show what was measured")
        known = json.loads(args.json.read_text(encoding="utf-8"))
        show(args, known, known["schemes"])
    elif not args.texts:
        parser.error("name the MODEL and at least one TEXT")
    else:
        show(args, *measure_all(args))


def label_of(entry):
    """The label of an entry that this script measures."""
    return next((label for label, keys, _ in schemes() if same_scheme(entry, keys)), entry["scheme"])


def show(args, top, entries):
    """Tables, and the plot if it is wanted."""
    others = quality_tables.published(top, entries)
    quality_tables.show(top, [(label_of(entry), entry) for entry in entries], others)
    if args.plot:
        bits = "bits_per_weight" if args.bits == "model" else "layer_bits_per_weight"
        args.plot.write_text(quality_plot.draw(top, entries + others, bits), encoding="utf-8")


def measure_all(args):
    """Head and entries of everything, measured or known before."""
    args.threads = ["--threads", str(args.threads)] if args.threads else []
    if args.calibration is None:
        print("calibration text: the one that comes with quern", file=sys.stderr)

    before = json.loads(args.json.read_text()) if args.json and args.json.is_file() else {}
    top = head(args, before)
    same = ("model", "parameters", "context", "chunks", "calibration", "texts")
    if before and any(before.get(key) != top[key] for key in same):
        sys.exit(f"{args.json} holds figures of another model, text, calibration or length; name another file or remove it")
    known = before.get("schemes", [])

    entries = []
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        work = pathlib.Path(folder)

        def imatrix():
            file = work / "imatrix.gguf"
            if not file.is_file():
                command = [args.quern, "imatrix", args.model, "-o", file, "--context", str(args.context), *args.threads]
                run(command + (["--text", args.calibration] if args.calibration else []))
            return file

        for label, keys, options in schemes():
            entry = next((e for e in known if same_scheme(e, keys)), None)
            if entry is None and re.search(args.only, label):
                try:
                    entry = measure(args, keys, options, work, imatrix)
                    print(f"{label}: KL {entry['kl_mean']:.4f}, ratio {entry['perplexity_ratio']:.4f}, "
                          f"{entry['bits_per_weight']:.2f} bits", file=sys.stderr)
                except Failed as reason:
                    print(f"{label}: not measured: {reason}", file=sys.stderr)
            if entry is None:
                continue
            entries.append(entry)
            if args.json:
                rest = [e for e in known if e not in entries]
                lines = ",\n  ".join(json.dumps(e) for e in entries + rest)
                text = json.dumps(top, indent=1)[:-2] + f",\n \"schemes\": [\n  {lines}\n ]\n}}\n"
                args.json.write_text(text, encoding="utf-8")
    return top, entries


main()
