"""Checks `quern convert` on the tiny models: Hugging Face to GGUF and back must lose nothing.

    python3 tools/check_conversions.py QUERN [--only NAME…] [--llama-cpp] [--theirs DIR] [--keep DIR] [--notes]

Needs torch, transformers 5, tokenizers, safetensors and gguf from PyPI. For each folder of fixtures/architectures

    convert    quern convert FOLDER --to gguf -o X.gguf
    metadata   of X.gguf against gguf.json, which llama.cpp's converter made (see MAY_DIFFER)
    tensors    of X.gguf against gguf.json: names, types, shapes, SHA-256 of the bytes
    back       quern convert X.gguf --to safetensors -o FOLDER2
    bytes      the tensors of FOLDER2 are the folder's: names, element types, shapes, bytes
    logits     transformers in float32 computes the same of FOLDER2 as of the folder, within 1e-6 (and of both what
               logits.safetensors says, within 1e-3: another machine sums in another order)
    ids        FOLDER2's tokenizer makes the ids of tokenize.json, through transformers and through tokenizers alone,
               and has the same special tokens and chat template
    f32        quern convert FOLDER --to gguf --dtype f32; with --llama-cpp its logits in llama.cpp are transformers',
               but for what llama.cpp itself computes otherwise (see LLAMA_CPP_LOGITS)
    theirs     with --theirs, the folder that `make_conversion_golden.py --keep` filled: quern convert of llama.cpp's
               own file to safetensors gives the folder's tensors and logits

Prints a row per folder, below it what went wrong, and exits with 1 if anything did. A step that needs an earlier one
that failed shows "-", as do steps without a reference (llama.cpp has no OPT). --notes also lists what may differ:
keys of X.gguf that llama.cpp's converter does not write, and keys of config.json that do not come back.
"""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ROOT / "fixtures/architectures"
STEPS = ["convert", "metadata", "tensors", "back", "bytes", "logits", "ids", "f32", "theirs"]

# Metadata that may have another value, or be missing: guesses from the folder's name, hints for sampling, and what
# llama.cpp's converter writes as a constant although config.json says better.
MAY_DIFFER = {
    "general.name", "general.basename", "general.finetune", "general.version", "general.organization",
    "general.size_label", "falcon.context_length",
}
MAY_BE_MISSING = MAY_DIFFER | {
    "general.sampling.top_k", "general.sampling.top_p", "general.sampling.temp", "general.sampling.penalty_repeat",
    # false is what a reader takes where the key is missing
    "tokenizer.ggml.add_sep_token", "tokenizer.ggml.add_eos_token",
}

# Keys beyond llama.cpp's: outside the architecture's own any, of those what config.json says and llama.cpp's loader
# would take by itself, or does not know.
MAY_BE_MORE = {"vocab_size", "attention.sliding_window", "rope.freq_base", "rope.dimension_count",
               "attention.head_count_kv", "attention.key_length", "attention.value_length"}

# How far llama.cpp may be from transformers (largest difference by the logits' deviation). It tabulates GELU in
# float16; fixtures/architectures/README.md explains the prompts it computes otherwise altogether.
TABLE = 5e-3
LLAMA_CPP_LOGITS = {n: [TABLE, TABLE] for n in [
    "gemma", "gemma2", "gemma3", "gpt2", "gpt_neox", "gpt_neox-sequential", "phi", "falcon", "falcon-7b", "starcoder2"]}
LLAMA_CPP_LOGITS |= {"mistral": [None, None], "phi3": [None, None], "phi3-longrope": [None, 1e-3]}

# What llama.cpp's files do not state, so that quern cannot read it: Mistral's sliding window, Falcon's rope base.
SILENT = {"mistral", "falcon"}

# Keys of config.json that change nothing a model computes.
IDLE_CONFIG = {"transformers_version", "_name_or_path", "initializer_range", "init_std", "use_cache", "dtype",
               "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "classifier_dropout",
               "dropout", "layerdrop", "residual_dropout", "embedding_dropout", "router_aux_loss_coef",
               "output_router_logits", "pretraining_tp"}


class Failure(Exception):
    """A step failed; the message is one line or several."""


def quern(binary, *arguments):
    done = subprocess.run([binary, "convert", *map(str, arguments)], capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Failure(f"quern, exit code {done.returncode}: " + " | ".join(lines[:3])[:300])


def short(value):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 70 else text[:67] + "…"


def first_difference(mine, theirs):
    """How two values differ; of long lists only where they begin to."""
    if isinstance(mine, list) and isinstance(theirs, list):
        if len(mine) != len(theirs):
            return f"{len(mine)} elements, not {len(theirs)}"
        at = next(i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b)
        count = sum(a != b for a, b in zip(mine, theirs))
        return f"{count} elements differ, first [{at}]: {short(mine[at])}, not {short(theirs[at])}"
    return f"{short(mine)}, not {short(theirs)}"


def metadata(reader, golden, note):
    from make_conversion_golden import metadata_of

    # through JSON, so that numbers compare as the golden file's
    mine = {k: (t, v) for k, t, v in json.loads(json.dumps(metadata_of(reader)))}
    theirs = {k: (t, v) for k, t, v in golden["metadata"]}
    wrong = []
    for key, (kind, value) in theirs.items():
        if key not in mine:
            (note if key in MAY_BE_MISSING else wrong).append(f"{key} is missing, llama.cpp has {short(value)}")
        elif mine[key] != (kind, value):
            has = f" of type {mine[key][0]}, not {kind}" if mine[key][0] != kind else ""
            what = first_difference(mine[key][1], value) if mine[key][1] != value else "the same value"
            # Without a tokenizer.model llama.cpp writes -1000 for every score, which says nothing of the order of
            # merges; quern takes the scores from it.
            flat = key == "tokenizer.ggml.scores" and set(value) == {-1000.0}
            (note if key in MAY_DIFFER or flat else wrong).append(f"{key}{has}: {what}")
    architecture = theirs["general.architecture"][1] + "."
    for key in sorted(mine.keys() - theirs.keys()):
        fine = not key.startswith(architecture) or key.removeprefix(architecture) in MAY_BE_MORE
        (note if fine else wrong).append(f"{key} = {short(mine[key][1])} is more than llama.cpp writes")
    if wrong:
        raise Failure("\n".join(wrong))


def tensors(reader, golden):
    from make_conversion_golden import tensors_of

    mine = {n: rest for n, *rest in tensors_of(reader)}
    theirs = {n: rest for n, *rest in golden}
    wrong = [f"{n} is missing" for n in theirs if n not in mine] + [f"{n} is too much" for n in mine if n not in theirs]
    for name in mine.keys() & theirs.keys():
        (kind, shape, sha), (kind2, shape2, sha2) = mine[name], theirs[name]
        if (kind, shape) != (kind2, shape2):
            wrong.append(f"{name} is {kind} {shape}, not {kind2} {shape2}")
        elif sha != sha2:
            wrong.append(f"{name}: other bytes")
    if wrong:
        raise Failure("\n".join(sorted(wrong)))


def safetensors_of(directory):
    """Name to (element type, shape, SHA-256) over all the directory's files."""
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        if path.name == "logits.safetensors":
            continue
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        for name, t in header.items():
            begin, end = t["data_offsets"]
            found[name] = (t["dtype"], t["shape"], hashlib.sha256(data[start + begin:start + end]).hexdigest())
    return found


def same_bytes(directory, back):
    theirs, mine = safetensors_of(directory), safetensors_of(back)
    wrong = [f"{n} is missing" for n in theirs if n not in mine] + [f"{n} is too much" for n in mine if n not in theirs]
    for name in mine.keys() & theirs.keys():
        if mine[name][:2] != theirs[name][:2]:
            wrong.append("{} is {} {}, not {} {}".format(name, *mine[name][:2], *theirs[name][:2]))
        elif mine[name] != theirs[name]:
            wrong.append(f"{name}: other bytes")
    if wrong:
        raise Failure("\n".join(sorted(wrong)))


def same_logits(directory, back, note):
    import safetensors.torch
    import torch
    import transformers

    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            back, dtype=torch.float32, attn_implementation="eager").eval()
    except Exception as error:
        raise Failure(f"transformers does not load it: {type(error).__name__}: {str(error)[:200]}") from error
    before, after = (transformers.AutoConfig.from_pretrained(d).to_dict() for d in (directory, back))
    for key in sorted((before.keys() | after.keys()) - IDLE_CONFIG):
        if before.get(key) != after.get(key):
            note.append(f"config.json: {key} is {short(after.get(key))}, was {short(before.get(key))}")
    original = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager").eval()
    golden = safetensors.torch.load_file(directory / "logits.safetensors")
    wrong = []
    for i in range(sum(name.endswith(".input_ids") for name in golden)):
        ids = golden[f"prompt{i}.input_ids"][None]
        with torch.no_grad():
            mine, theirs = (m(ids, use_cache=False).logits[0] for m in (model, original))
        for name, expected, limit in [("the folder's", theirs, 1e-6), ("the file's", golden[f"prompt{i}.logits"], 1e-3)]:
            mine = mine[-len(expected):]
            worst = (mine - expected).abs().max().item() if mine.shape == expected.shape else float("inf")
            if not worst <= limit:
                wrong.append(f"prompt {i}: logits off by {worst:.1e} from {name}, shape {list(mine.shape)}")
    if wrong:
        raise Failure("\n".join(wrong))


def refused(binary, directory, path):
    """GGUF of an architecture that llama.cpp does not know must be refused, with the reason."""
    done = subprocess.run([binary, "convert", directory, "--to", "gguf", "-o", path], capture_output=True, text=True)
    if done.returncode != 1 or "llama.cpp has no" not in done.stderr or path.exists():
        raise Failure(f"exit code {done.returncode}: {done.stderr[:200]}")


def same_ids(directory, back, note):
    import tokenizers
    import transformers

    wrong = []
    try:
        before, after = (transformers.AutoTokenizer.from_pretrained(d) for d in (directory, back))
    except Exception as error:
        raise Failure(f"transformers does not load it: {type(error).__name__}: {str(error)[:200]}") from error
    cases = json.loads((directory / "tokenize.json").read_text())
    readers = [("transformers", "transformers_ids", lambda t, s: after.encode(t, add_special_tokens=s))]
    if (back / "tokenizer.json").is_file():
        raw = tokenizers.Tokenizer.from_file(str(back / "tokenizer.json"))
        readers.append(("tokenizers", "ids", lambda t, s: raw.encode(t, add_special_tokens=s).ids))
    for reader, key, encode in readers:
        for case in cases:
            for special, suffix in ((False, ""), (True, "_with_special")):
                ids, mine = case.get(key + suffix, case["ids" + suffix]), encode(case["text"], special)
                if mine != ids:
                    how = " with special tokens" if special else ""
                    wrong.append(f"{reader}, {case['text']!r}{how}: {short(mine)}, not {short(ids)}")
    for name in ["bos_token", "eos_token", "unk_token", "pad_token", "chat_template"]:
        if getattr(before, name, None) != getattr(after, name, None):
            text = f"{name} is {short(getattr(after, name, None))}, was {short(getattr(before, name, None))}"
            # GGUF's ids come from config.json too, which names tokens that the tokenizer's own files leave out; no
            # text becomes other tokens by it.
            # The padding token may come from a class of transformers alone.
            absent = getattr(before, name, None) is None and name in ("bos_token", "unk_token")
            unnamed = absent or name == "pad_token"
            (note if unnamed else wrong).append(f"tokenizer: {text}" if unnamed else text)
    if wrong:
        raise Failure("\n".join(wrong))


def llama_cpp(name, directory, path):
    import llama_cpp_peer

    worst, _ = llama_cpp_peer.compare(directory, path)
    limits = LLAMA_CPP_LOGITS.get(name, [1e-4, 1e-4])
    wrong = [f"llama.cpp, prompt {i}: logits off by {w:.1e} deviations"
             for i, (w, limit) in enumerate(zip(worst, limits)) if limit is not None and not w <= limit]
    if wrong:
        raise Failure("\n".join(wrong))


def from_theirs(binary, name, directory, path, back):
    quern(binary, path, "--to", "safetensors", "-o", back)
    same_bytes(directory, back)
    if name not in SILENT:
        same_logits(directory, back, [])


def check(binary, name, work, with_llama_cpp, theirs, note):
    """Each step's result: None if it passed, a message if it failed; steps that could not run are left out."""
    import gguf

    directory = FOLDERS / name
    path, path32, back = work / f"{name}.gguf", work / f"{name}-f32.gguf", work / name
    golden = directory / "gguf.json"
    golden = json.loads(golden.read_text()) if golden.is_file() else None
    results = {}

    def step(title, function, *arguments):
        try:
            function(*arguments)
            results[title] = None
        except Failure as failure:
            results[title] = str(failure)
        except Exception as error:  # a broken file must not stop the table
            results[title] = f"{type(error).__name__}: {str(error)[:300]}"
        return results[title] is None

    if not golden:  # OPT: refused with the reason, and what is left is the way from safetensors to safetensors
        if step("convert", refused, binary, directory, path) and step(
            "back", quern, binary, directory, "--to", "safetensors", "-o", back
        ):
            step("bytes", same_bytes, directory, back)
            step("logits", same_logits, directory, back, note)
            step("ids", same_ids, directory, back, note)
        return results
    if step("convert", quern, binary, directory, "--to", "gguf", "-o", path):
        if golden:
            step("metadata", lambda: metadata(gguf.GGUFReader(path), golden, note))
            step("tensors", lambda: tensors(gguf.GGUFReader(path), golden["tensors"]))
        if step("back", quern, binary, path, "--to", "safetensors", "-o", back):
            step("bytes", same_bytes, directory, back)
            step("logits", same_logits, directory, back, note)
            step("ids", same_ids, directory, back, note)
    if golden and step("f32", quern, binary, directory, "--to", "gguf", "--dtype", "f32", "-o", path32):
        f32 = {t[0]: t for t in golden["f32"]}
        if f32:
            step("f32", lambda: tensors(gguf.GGUFReader(path32), [f32.get(t[0], t) for t in golden["tensors"]]))
        if with_llama_cpp and results["f32"] is None:
            step("f32", llama_cpp, name, directory, path32)
    if golden and theirs:
        half = "bf16" if any(t[1] == "BF16" for t in golden["tensors"]) else "f16"
        step("theirs", from_theirs, binary, name, directory, theirs / f"{name}-{half}.gguf", work / f"{name}-theirs")
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("quern", type=pathlib.Path, help="the binary")
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--llama-cpp", action="store_true", help="also run the F32 files in llama.cpp; "
                        "llama_cpp_peer.py says what that needs")
    parser.add_argument("--theirs", type=pathlib.Path, metavar="DIR", help="llama.cpp's own files, to convert back")
    parser.add_argument("--keep", type=pathlib.Path, metavar="DIR", help="leave what quern wrote in DIR")
    parser.add_argument("--notes", action="store_true")
    parser.add_argument("--lines", type=int, default=6, help="how many lines per failed step (6)")
    args = parser.parse_args()
    names = sorted(p.name for p in FOLDERS.iterdir() if (p / "config.json").is_file())
    if unknown := set(args.only or []) - set(names):
        parser.error(f"no folder {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    binary = shutil.which(args.quern) or parser.error(f"{args.quern} cannot be run")
    os.environ["TQDM_DISABLE"] = "1"
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print("  ".join(["architecture".ljust(20)] + [s.ljust(8) for s in STEPS]))
    passed = failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        work = args.keep or pathlib.Path(temporary)
        if args.keep:
            shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
        for name in args.only or names:
            note = []
            results = check(pathlib.Path(binary).resolve(), name, work, args.llama_cpp, args.theirs, note)
            cells = ["-" if s not in results else "ok" if results[s] is None else "FAILED" for s in STEPS]
            print("  ".join([name.ljust(20)] + [c.ljust(8) for c in cells]).rstrip(), flush=True)
            for title, message in results.items():
                lines = (message or "").splitlines()
                for line in lines[:args.lines]:
                    print(f"    {title}: {line}")
                if len(lines) > args.lines:
                    print(f"    {title}: … {len(lines) - args.lines} more")
            if args.notes:
                print("".join(f"    note: {line}\n" for line in note), end="")
            bad = any(message is not None for message in results.values())
            passed, failed = passed + (not bad), failed + bad
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
