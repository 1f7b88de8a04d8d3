"""Loads checkpoint directories with the libraries they are meant for, and compares with quern.

    python3 tools/check_checkpoints.py QUERN_BINARY DIR… [--text F] [--context 512] [--chunks 8]

Needs torch, transformers, safetensors and, by the directory's scheme, bitsandbytes or gptqmodel (from PyPI; all on
the CPU). Each directory is loaded by

- its own library: GPT-QModel (torch backend) for GPTQ and AWQ, transformers with bitsandbytes for NF4, FP4, int8;
- transformers with GPT-QModel, for GPTQ, where optimum is installed;
- score_perplexity.py, which decodes the files in numpy: float32 from the stored numbers, the reference here;
- quern.

The table has perplexity over the text's first chunks, how many of 2 x 32 greedy tokens agree with the reference's,
and for the libraries the mean Kullback-Leibler divergence of their distributions from the reference's. The exit code
is 1 if a library cannot load a directory, if a perplexity differs by more than --tolerance (relative), or if a first
greedy token differs.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import time
import traceback

import score_perplexity as judge

ROOT = pathlib.Path(__file__).parent.parent
PROMPTS = ["It was a dark night, and the old captain",
           '"I do not believe it," said Alice; naïve café № 42 — 東京 🙂']
GREEDY = 32


def method_of(directory):
    """gptq, awq, bitsandbytes, or nothing for a plain checkpoint."""
    config = json.loads((directory / "config.json").read_text())
    return (config.get("quantization_config") or {}).get("quant_method")


def with_transformers(directory):
    import torch
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(directory, device_map="cpu", dtype=torch.float32).eval()


def with_gptqmodel(directory):
    # It needs more threads for its own tasks than small machines have.
    cores = os.cpu_count
    os.cpu_count = lambda: max(8, cores() or 1)
    import torch
    from gptqmodel import BACKEND, GPTQModel

    # its torch kernel takes half precision only
    model = GPTQModel.load(str(directory), device="cpu", backend=BACKEND.TORCH, dtype=torch.float16)
    return model.model.eval()


def loaders(method):
    if method in ("gptq", "awq"):
        yield "gptqmodel", with_gptqmodel
        try:
            import optimum  # noqa: F401
            yield "transformers", with_transformers
        except ImportError:
            pass
    elif method == "bitsandbytes":
        yield "transformers + bitsandbytes", with_transformers
    else:
        yield "transformers", with_transformers


def greedy(model, ids):
    """The likeliest tokens, one by one."""
    import torch

    ids, out = list(ids), []
    for _ in range(GREEDY):
        with torch.no_grad():
            out.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        ids.append(out[-1])
    return out


def log_p(model, chunks, context):
    """Log-probabilities of the scored positions of each chunk."""
    import torch

    out = []
    for chunk in chunks:
        with torch.no_grad():
            logits = model(torch.tensor([chunk])).logits[0, context // 2:-1]
        out.append(torch.log_softmax(logits.double(), dim=-1))
    return out


def perplexity(distributions, chunks, context):
    total = [-d[range(len(d)), chunk[context // 2 + 1:]].sum() for d, chunk in zip(distributions, chunks)]
    return math.exp(sum(total) / sum(len(d) for d in distributions))


def divergence(reference, other):
    """Mean Kullback-Leibler divergence of `other` from `reference`, in nats."""
    kl = [(p.exp() * (p - q)).sum(dim=-1) for p, q in zip(reference, other)]
    return float(sum(k.sum() for k in kl) / sum(len(k) for k in kl))


def quern(binary, arguments):
    done = subprocess.run([binary, *arguments, "--json"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return json.loads(done.stdout)


def prompt_ids(directory):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    return [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]


def agreement(ours, theirs):
    """Tokens equal before the first difference, and whether each text's first one is."""
    same = 0
    for a, b in zip(ours, theirs):
        same += next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return same, all(a[:1] == b[:1] for a, b in zip(ours, theirs))


def check(binary, directory, text_file, args):
    """Rows of the table, and whether all is well."""
    text = text_file.read_text(encoding="utf-8")
    tokens, bos = judge.tokens_of(directory, text)
    chunks = [tokens[i * args.context:(i + 1) * args.context] for i in range(args.chunks)]
    chunks = [[bos if bos is not None else c[0]] + c[1:] for c in chunks if len(c) == args.context]
    prompts = prompt_ids(directory)

    model = judge.load(directory)
    expected = log_p(model, chunks, args.context)
    wanted = perplexity(expected, chunks, args.context)
    texts = [greedy(model, ids) for ids in prompts]
    yield "files in float32", wanted, len(PROMPTS) * GREEDY, 0.0, True
    del model

    def well(value, first):
        return first and abs(value / wanted - 1) <= args.tolerance

    for name, load in loaders(method_of(directory)):
        try:
            model = load(directory)
            found = log_p(model, chunks, args.context)
            same, first = agreement([greedy(model, ids) for ids in prompts], texts)
            value = perplexity(found, chunks, args.context)
            yield name, value, same, divergence(expected, found), well(value, first)
            del model
        except Exception:  # any exception of the library is a result
            traceback.print_exc()
            yield name, None, None, None, False
    try:
        runs = [quern(binary, ["run", str(directory), "-p", prompt, "-n", str(GREEDY), "--temp", "0"])["tokens"]
                for prompt in PROMPTS]
        same, first = agreement(runs, texts)
        value = quern(binary, ["perplexity", str(directory), "--text", str(text_file), "--context",
                               str(args.context), "--chunks", str(len(chunks))])["perplexity"]
        yield "quern", value, same, None, well(value, first)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        yield "quern", None, None, None, False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", metavar="QUERN_BINARY")
    parser.add_argument("directories", nargs="+", metavar="DIR", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path, default=ROOT / "fixtures/text/validation.txt")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--tolerance", type=float, default=0.01)
    args = parser.parse_args()
    # The libraries print on standard output, which is kept free for the table.
    table = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    all_well = True
    for directory in args.directories:
        print(f"\n{directory} ({method_of(directory) or 'plain'})", file=table, flush=True)
        print(f"  {'loaded by':<30}{'perplexity':>11}{'greedy':>9}{'KL':>11}{'time':>7}", file=table, flush=True)
        started = time.time()
        for name, value, same, kl, fine in check(args.binary, directory, args.text, args):
            all_well &= fine
            cells = ("failed" if value is None else f"{value:.4f}", "" if same is None else f"{same}/{2 * GREEDY}",
                     "" if kl is None else f"{kl:.2e}", f"{time.time() - started:.0f} s")
            print("  {:<30}{:>11}{:>9}{:>11}{:>7}".format(name, *cells) + ("" if fine else "   <-- strays"),
                  file=table, flush=True)
            started = time.time()
    sys.exit(0 if all_well else 1)


if __name__ == "__main__":
    main()
