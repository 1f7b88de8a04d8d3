"""Checks crates/inspect/data/catalogue.json: every configuration gives the number of parameters that its entry states.

    python3 tools/check_catalogue.py QUERN [REGEX]

For each model (those whose repository matches REGEX), transformers builds the architecture of the entry's `config`
without memory for its weights (device "meta"). Its tensors' names and shapes become a safetensors file that is all
header: the data behind it is a hole in a sparse file. `quern inspect` then reads config.json and that file, as it would
read the published model, and must find the architecture, no shape that contradicts the configuration, and the stated
number of parameters; transformers must count the same. A head tied to the embedding counts once.

Entries of architectures that quern cannot run are counted by transformers alone, and named. Exit code 1 if anything
differs. Needs torch and transformers; takes about a minute and no disk space.
"""

import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
import transformers  # noqa: E402

CATALOGUE = pathlib.Path(__file__).parent.parent / "crates/inspect/data/catalogue.json"
KEYS = ["repository", "family", "parameters", "licence", "gated", "kind", "released", "dtype", "source", "config"]
OPTIONAL = ["hub_total", "note"]
DTYPES = {"bf16": "BF16", "f16": "F16", "f32": "F32"}


def shapes(config: dict) -> dict:
    """{name: shape} of the tensors a checkpoint of this configuration holds, tied ones once."""
    config = dict(config)
    kind = config.pop("model_type")
    built = transformers.AutoConfig.for_model(kind, **config)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(built)
    # transformers 5 renames this head when it loads the published files.
    names = {"lm_head.weight": "embed_out.weight"} if kind == "gpt_neox" else {}
    return {names.get(name, name): list(parameter.shape) for name, parameter in model.named_parameters()}


def write(folder: pathlib.Path, config: dict, tensors: dict, dtype: str) -> None:
    """A checkpoint of the right names, shapes and length whose data is a hole."""
    (folder / "config.json").write_text(json.dumps(config))
    header, at, size = {}, 0, 4 if dtype == "f32" else 2
    for name, shape in tensors.items():
        end = at + math.prod(shape) * size
        header[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)


def quern(binary: str, folder: pathlib.Path):
    """(summary, None), or (None, what quern said)."""
    done = subprocess.run([binary, "inspect", folder, "--json"], capture_output=True, text=True)
    return (json.loads(done.stdout), None) if done.returncode == 0 else (None, done.stderr.strip())


def plan(binary: str, folder: pathlib.Path):
    """What stops `quern bench --dry-run` from planning devices and memory; None if nothing does."""
    command = [binary, "bench", folder, "--dry-run", "--device", "cpu", "--max-memory", "100TiB"]
    done = subprocess.run(command, capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr.strip()


def check(binary: str, entry: dict, runnable: set) -> list:
    wrong = [f"key {key} is missing" for key in KEYS if key not in entry]
    wrong += [f"key {key} is unknown" for key in entry if key not in KEYS + OPTIONAL]
    if wrong:
        return wrong
    if entry["kind"] not in ("chat", "base", "code") or not re.fullmatch(r"20\d\d-\d\d", entry["released"]):
        wrong.append("kind or released is not of the usual form")
    tensors, stated = shapes(entry["config"]), entry["parameters"]
    counted = sum(math.prod(shape) for shape in tensors.values())
    if counted != stated:
        wrong.append(f"transformers counts {counted}")
    if entry["config"]["architectures"][0] not in runnable:
        print(f"{entry['repository']}: {counted} by transformers; quern has no architecture for "
              f"{entry['config']['model_type']}: not checked with it")
        return wrong
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write(folder, entry["config"], tensors, entry["dtype"])
        summary, refusal = quern(binary, folder)
        if refusal:
            return wrong + [refusal]
        if summary["parameters"] != stated:
            wrong.append(f"quern inspect counts {summary['parameters']}")
        wrong += [f"quern inspect notes: {note}" for note in summary["notes"]
                  if "there is no tokenizer here" not in note]
        refusal = plan(binary, folder)
        if refusal:
            wrong.append(f"quern bench --dry-run: {refusal}")
    return wrong


def main() -> None:
    binary, pattern = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    models = json.loads(CATALOGUE.read_text(encoding="utf-8"))["models"]
    listed = subprocess.run([binary, "inspect", "--architectures"], capture_output=True, text=True, check=True).stdout
    runnable = set(re.findall(r"\w+", listed))
    names = [entry.get("repository") for entry in models]
    bad = [f"{name}: listed twice" for name in set(names) if names.count(name) > 1]
    checked = [entry for entry in models if re.search(pattern, entry["repository"])]
    for entry in checked:
        try:
            bad += [f"{entry['repository']}, {entry['parameters']}: {what}" for what in check(binary, entry, runnable)]
        except Exception as error:  # a configuration that transformers refuses
            bad.append(f"{entry['repository']}: {error!r}")
    print("\n".join(bad) if bad else f"{len(checked)} models agree")
    sys.exit(1 if bad else 0)


main()
