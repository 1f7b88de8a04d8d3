#!/usr/bin/env python3
"""Measures this processor beside llama.cpp: the rows of the table "Speed by processor" in docs/running.md.

    python3 tools/make_random_llama.py --shape 1.1b --tokenizer fixtures/bookworm-4m -o /tmp/llama-1.1b
    python3 tools/bench_cpu.py --quern target/release/quern --llama LLAMA_CPP_BIN_DIR --model /tmp/llama-1.1b

LLAMA_CPP_BIN_DIR holds llama-bench, built natively; without it only quern is measured. The two run in turn, --rounds
times, on the same GGUF files, which are made in --work (3.5 GB for the 1.1B shape). A cell has the best of the rounds in
tokens per second, and the ratio compares these. --simd holds quern to a level of instructions (as QUERN_SIMD); for
llama.cpp take a build for the same level. Nothing else should run: on a machine that is shared, look at --spread.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import subprocess

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quern", required=True, type=pathlib.Path)
parser.add_argument("--llama", type=pathlib.Path, help="folder of llama-bench")
parser.add_argument("--model", required=True, type=pathlib.Path, help="a Hugging Face checkpoint")
parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/quern-bench-cpu"))
parser.add_argument("--types", default="q4_0,q4_k_m,q6_k,q8_0,f16")
parser.add_argument("--threads", default="", help="counts, by default quern's own default")
parser.add_argument("--prompt", type=int, default=256, help="tokens of the prompt; 0 for none")
parser.add_argument("--generate", type=int, default=32, help="tokens to generate; 0 for none")
parser.add_argument("--depth", type=int, default=0, help="positions filled before, for generation")
parser.add_argument("--kv", default="f16", help="type of the key-value cache: f16 or q8_0")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--simd", default="", help="level of instructions for quern")
parser.add_argument("--spread", action="store_true", help="print all rounds, not only the best")
args = parser.parse_args()


def processor():
    """The processor's name, as the system tells it."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
        return re.search(r"^model name\s*: (.*)$", text, re.M).group(1)
    except (OSError, AttributeError):
        return platform.processor() or platform.machine()


def run(command, **env):
    """What a command prints as JSON; its messages only where it fails."""
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=dict(os.environ, **env))
    if result.returncode != 0:
        raise SystemExit(f"{command[0]} failed ({result.returncode}): {result.stderr.strip()[-400:]}")
    return json.loads(result.stdout)


def quern(model, threads):
    """Tokens per second by test."""
    command = [args.quern, "bench", model, "--json", "--ngl", 0, "--prompt", args.prompt, "--generate", args.generate,
               "--depth", args.depth, "--kv", args.kv, "--repetitions", 2, *(["--threads", threads] if threads else [])]
    tests = run(command, **({"QUERN_SIMD": args.simd} if args.simd else {}))["tests"]
    return {test["test"]: test["tokens_per_second"] for test in tests}


def llama(model, threads):
    """The same of llama-bench, which quantizes caches of values only with flash attention."""
    command = [args.llama / "llama-bench", "-m", model, "-o", "json", "-ngl", 0, "-p", args.prompt, "-n", args.generate,
               "-d", args.depth, "-ctk", args.kv, "-ctv", args.kv, "-r", 2, *(["-fa", 1] if args.kv != "f16" else []),
               *(["-t", threads] if threads else [])]
    return {"generate" if test["n_gen"] else "prompt": test["avg_ts"] for test in run(command)}


def cell(rounds):
    """The best of the rounds, or all."""
    best = f"{max(rounds):.4g}"
    return f"{best} ({', '.join(f'{value:.4g}' for value in rounds)})" if args.spread else best


def rows(element_type, threads):
    """The table's rows of a type and number of threads: one for the prompt, one for generation."""
    model = args.work / f"{args.model.name}-{element_type}.gguf"
    if not model.exists():
        command = [args.quern, "quantize", args.model, "--to", element_type, "-o", model, "--no-provenance"]
        subprocess.run(command, check=True, capture_output=True)
    peers = {"quern": quern, **({"llama.cpp": llama} if args.llama else {})}
    results = {name: [] for name in peers}
    for _ in range(args.rounds):
        for name, measure in peers.items():
            results[name].append(measure(model, threads))
    for test, tokens in (("prompt", args.prompt), ("generate", args.generate)):
        if not tokens:
            continue
        figures = {name: [result[test] for result in rounds] for name, rounds in results.items()}
        peer, ours = figures.get("llama.cpp"), figures["quern"]
        ratio = f"{max(ours) / max(peer):.2f}" if peer else ""
        work = f"{test} {tokens}" + (f" at {args.depth}" if args.depth else "") + (f", {args.kv} cache" if args.kv != "f16" else "")
        print(f"| {threads or 'default'} | {work} | {element_type.upper()} | {cell(peer) if peer else ''} | {cell(ours)} | {ratio} |",
              flush=True)


args.work.mkdir(parents=True, exist_ok=True)
level = f", quern held to {args.simd}" if args.simd else ""
print(f"{processor()}{level}: tokens per second, the best of {args.rounds} rounds\n")
print("| threads | work | type | llama.cpp | quern | ratio |\n|---|---|---|---|---|---|")
for count in args.threads.split(","):
    for name in args.types.split(","):
        rows(name, count)
