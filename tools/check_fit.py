#!/usr/bin/env python3
"""Compares what `quern fit` expects of models with what `quern run` and `quern bench` take.

    tools/check_fit.py target/release/quern --device cpu -t 16 MODEL...
    tools/check_fit.py target/release/quern --device cuda MODEL...
    tools/check_fit.py target/release/quern --device cuda --vram 3GiB MODEL...

Each model is run as it is stored, with a prompt that fills the context nearly, and benchmarked. With --vram both are
given that much of the card. With --repeat, both are done in turn so often, and speeds are medians: the memory of shared
machines is now faster, now slower. Prints a Markdown table: memory (RAM, or the card's with the driver's part) and generated
tokens per second, expected and measured, with the ratio. Needs a quiet machine. The standard library is enough.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile

CONTEXT = 1344
# Tokens of a text in the models' vocabularies: some more than the prompt needs.
CHARACTERS = 4000


def run(quern, *arguments):
    done = subprocess.run([quern, *map(str, arguments), "--json"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))}: {done.stderr}")
    return json.loads(done.stdout)


def room(text):
    units = {"gib": 1 << 30, "mib": 1 << 20}
    return int(float(text[:-3]) * units[text[-3:].lower()])


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("quern")
    args.add_argument("models", nargs="+")
    args.add_argument("--device", default="cpu")
    args.add_argument("--vram")
    args.add_argument("-t", "--threads", default=os.cpu_count())
    args.add_argument("-r", "--repeat", type=int, default=1)
    args.add_argument("--text", default=os.path.join(os.path.dirname(__file__), "../fixtures/text/validation.txt"))
    args = args.parse_args()
    print("| model | where | memory expected | measured | ratio | tokens/s expected | measured | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        prompt = os.path.join(folder, "prompt.txt")
        with open(args.text, encoding="utf-8") as file:
            text = file.read(CHARACTERS)
        with open(prompt, "w", encoding="utf-8") as file:
            file.write(text)
        for model in args.models:
            compare(args, model, prompt)


def compare(args, model, prompt):
    threads = ["-t", args.threads]
    fit = ["fit", model, "--context", CONTEXT, *threads]
    place = ["--device", args.device]
    if args.vram:
        fit += ["--vram", args.vram]
        # What fit leaves for the driver and as a reserve is not quern's to allocate.
        place = ["--device", "cuda:0", "--max-memory", f"0={(room(args.vram) - (1039 << 20)) >> 20}MiB"]
    else:
        fit += ["--device", args.device]
    def turn():
        report = run(args.quern, *fit)
        bench = run(args.quern, "bench", model, "-p", 0, "-n", 64, "-r", 3, *threads, *place)
        return next(s for s in report["schemes"] if s["scheme"] == "stored"), bench["generate_tokens_per_second"]

    turns = [turn() for _ in range(args.repeat)]
    expected = turns[0][0]
    ran = run(args.quern, "run", model, "-f", prompt, "-n", 32, "--context", CONTEXT, "--temp", 0, *threads, *place)
    devices = {device["device"]: device for device in ran["placement"]["devices"]}
    name = os.path.basename(model.rstrip("/"))
    where = f"{expected['gpu_layers']} of {expected['layers']} layers on the GPU" if expected["gpu_layers"] else "CPU"
    ran_layers = ran["placement"]["gpu_layers"]
    if ran_layers != expected["gpu_layers"]:
        where += f" (ran {ran_layers})"
    rows = [("RAM", expected["ram"]["total_bytes"], ran["peak_memory_bytes"])]
    for gpu in expected["gpus"]:
        rows.append(("GPU", gpu["total_bytes"], devices[gpu["device"]]["memory_peak_bytes"]))
    for number, (kind, want, found) in enumerate(rows):
        speed = "| | |"
        if number == len(rows) - 1:
            want_speed = statistics.median(scheme["tokens_per_second"] for scheme, _ in turns)
            found_speed = statistics.median(found for _, found in turns)
            speed = f"{want_speed:.1f} | {found_speed:.1f} | {want_speed / found_speed:.2f}"
        print(f"| {name} | {where}, {kind} | {want / 2**20:.0f} MiB | {found / 2**20:.0f} MiB "
              f"| {want / found:.3f} | {speed} |", flush=True)


if __name__ == "__main__":
    main()
