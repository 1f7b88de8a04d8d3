"""Makes fixtures/architectures/NAME/gguf.json: what llama.cpp's own converter writes of each tiny model.

    python3 tools/make_conversion_golden.py LLAMA_CPP_DIR [--only NAME…] [--keep DIR] [--forward]

LLAMA_CPP_DIR is llama.cpp's source tree (made with the one in llama-cpp-python 0.3.36). Its converter reads config.json
through transformers and pins that to 4.57.6, so this script needs the same (`pip install transformers==4.57.6`); torch,
sentencepiece, gguf as well. transformers 5 hands the converter other keys, and it fails on some architectures.

The converter runs as it is but for four things, which each gguf.json lists under "changed":

- "pre": it knows a byte-level pre-tokenizer by the hash of what a whole published vocabulary makes of a text, so it
  refuses a tiny one; the script gives it the family's name.
- "config": keys that this version of the converter reads and config.json has not.
- "code": a fault that loses tensors or bits.
- "tokenizer": one that needs a program of the repository.

gguf.json holds, in the file's order, "metadata" (key, GGUF type, value) and "tensors" (name, type, shape in GGUF's
order, the fastest dimension first, and SHA-256 of the bytes) of an F16 file (BF16 where the folder has bfloat16); for two
models "f32" has the tensors that differ in an F32 file.

--keep leaves the GGUF files in DIR. --forward runs each F32 file in llama.cpp as well (needs llama-cpp-python, or its
source tree in PYTHONPATH and LLAMA_CPP_LIB_PATH with libllama in it) and prints how far its logits are from
transformers', and which ids of tokenize.json its tokenizer makes otherwise.
"""

import argparse
import hashlib
import importlib
import json
import logging
import math
import os
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ROOT / "fixtures/architectures"
F32 = {"llama", "mixtral"}

# What get_vocab_base_pre() finds for a published model of the family. Pythia's is the same as OLMo's and MPT's.
PRE = {"llama3": "llama-bpe", "qwen2": "qwen2", "qwen3": "qwen2", "qwen3_moe": "qwen2", "qwen2_vl": "qwen2",
       "qwen2_5_vl": "qwen2", "qwen3_vl": "qwen2", "qwen3_vl_moe": "qwen2", "qwen3_5": "qwen35", "qwen3_5_moe": "qwen35",
       "qwen3_next": "qwen2",
       "lfm2": "llama-bpe", "lfm2_moe": "llama-bpe", "nemotron_h": "llama-bpe", "nemotron_h_moe": "llama-bpe", "nemotron_h_super": "llama-bpe", "phi": "phi-2",
       "gpt2": "gpt-2", "gpt_neox": "olmo", "gpt_neox-sequential": "olmo", "starcoder2": "starcoder",
       "stablelm": "stablelm2", "stablelm-parallel": "stablelm2", "falcon": "falcon", "falcon-7b": "falcon",
       # Seed-OSS has the tokenizer of Seed-Coder
       "seed_oss": "seed-coder", "seed_oss-biases": "seed-coder",
       # SmolLM3 has Llama 3's, Granite 3 that of Refact's code models, OLMo 2 that of DBRX
       "smollm3": "llama-bpe", "granite": "refact", "olmo2": "dbrx", "olmo3": "dbrx",
       "gpt_oss": "gpt-4o", "arcee": "llama-bpe", "exaone4": "exaone4", "olmo": "olmo", "afmoe": "llama-bpe", "olmoe": "olmo", "cohere2": "command-r",
       "qwen2_moe": "qwen2", "dots1": "qwen2", "glm4_moe": "glm4", "minimax_m2": "minimax-m2",
       "llama4": "llama4", "granitemoe": "refact", "granitemoeshared": "refact", "granitehybrid": "dbrx", "granitehybrid-rope": "dbrx", "granitehybrid_moe": "dbrx", "mamba2": "olmo", "falcon_h1": "llama-bpe", "youtu": "llama-bpe",
       "deepseek_v2": "deepseek-llm", "deepseek_v3": "deepseek-v3", "kimi_k2": "kimi-k2", "glm4_moe_lite": "glm4", "deepseek_v32": "deepseek-v3", "glm_moe_dsa": "glm4",
       "glm4": "glm4", "glm": "glm4", "cohere": "command-r",
       "hunyuan": "hunyuan-dense", "hunyuan_moe": "hunyuan", "apertus": "llama-bpe",
       "solar_open": "solar-open", "jais2": "jais-2", "exaone_moe": "exaone-moe", "exaone": "exaone", "granite_swa": "refact"}

# Keys the converter reads from config.json that transformers does not (or no longer) write.
CONFIG = {
    # as published
    "afmoe": {"route_norm": True},
    "cohere2": {"rotary_pct": 1.0},
    "dots1": {"scoring_func": "sigmoid"},
    "exaone": {"activation_function": "silu"},
    "exaone_moe": {"scoring_func": "sigmoid"},
    # it reads this list, transformers the bases of the layers
    "granite_swa": {"no_rope_layers": [0, 1]},
    "phi3_moe": {"architectures": ["PhiMoEForCausalLM"]},
    # without it the converter writes no key, and its loader knows the published models by their sizes
    "glm4_moe_lite": {"scoring_func": "sigmoid", "first_k_dense_replace": 1},
    "minimax_m2": {"scoring_func": "sigmoid", "rotary_dim": 8},
    "gpt2": {"n_ctx": 128},
    "qwen3_next": {"full_attention_interval": 2},
    # it looks for the keys of ChatGLM's own class
    "glm": {"seq_length": 256, "layernorm_epsilon": 1e-3, "rope_ratio": 5.0},
    # config.num_kv_heads is the number of query heads where one head is shared; published files leave it out
    "falcon-7b": {"num_kv_heads": 1},
}

# Faults that lose tensors or bits, and what is done about them here.
LOST = "StableLMModel.modify_tensors returns the stacked norms where it should yield them: yielded"
ROUNDED = "one is added to the norms in float16, which cannot hold the sum: added in float32, as for bfloat16 files"
REMOTE = ("HunYuanMoEModel.set_vocab runs the repository's own code and writes the published model's BOS: from tokenizer.json; "
          "its assertions on the published model's sizes are off")
CODE = {"stablelm-parallel": LOST, "gemma": ROUNDED, "gemma3": ROUNDED, "gemma3-images": ROUNDED, "nemotron": ROUNDED,
        "hunyuan_moe": REMOTE}

# Folders with a vocabulary of the tiktoken library, whose own program is not here.
RANKED = {"kimi_k2": "set up as the repository's own program does (tiny_tokenizers.Ranked)"}

# Not in llama.cpp: no converter, no architecture.
WITHOUT = {"opt", "opt-350m", "helium", "glm4v", "cwm", "hyperclovax", "vaultgemma", "flex_olmo"}


def convert(directory, outtype, target, changed):
    import conversion
    import gguf
    import torch

    with torch.inference_mode():
        hparams = conversion.ModelBase.load_hparams(directory, False) | changed.get("config", {})
        architecture = conversion.get_model_architecture(hparams, conversion.ModelType.TEXT)
        kind = conversion.get_model_class(architecture, mmproj=False)
        if "code" in changed:
            original = kind.modify_tensors

            def modify_tensors(self, data, name, bid):
                data = data.float() if changed["code"] == ROUNDED and name.endswith("norm.weight") else data
                yield from (yield from original(self, data, name, bid)) or ()

            kind.modify_tensors = modify_tensors
        if changed.get("code") == REMOTE:
            kind.set_vocab = lambda self: self._set_vocab_gpt2()
        if "tokenizer" in changed:
            import tiny_tokenizers
            import transformers

            ranked = tiny_tokenizers.Ranked(directory.name, directory)
            transformers.AutoTokenizer.from_pretrained = lambda *_args, **_options: ranked
        if "pre" in changed:
            kind.get_vocab_base_pre = lambda self, tokenizer: changed["pre"]
        # llama.cpp wants the layers that predict further tokens, or to be asked to do without
        kind.no_mtp = True
        ftype = {"f16": gguf.LlamaFileType.MOSTLY_F16, "bf16": gguf.LlamaFileType.MOSTLY_BF16,
                 "f32": gguf.LlamaFileType.ALL_F32}[outtype]
        kind(directory, ftype, target, hparams=hparams).write()


def metadata_of(reader):
    """[key, type, value] of each key in the file's order, the header's own left out."""
    result = []
    for field in reader.fields.values():
        if field.name.startswith("GGUF."):
            continue
        names = [t.name for t in field.types]
        kind = "[" + names[1] + "]" if names[0] == "ARRAY" else names[0]
        contents = field.contents()
        if kind == "[FLOAT32]":  # JSON has no infinity
            contents = [v if math.isfinite(v) else None for v in contents]
        result.append([field.name, kind, contents])
    return result


def tensors_of(reader):
    return [[t.name, t.tensor_type.name, [int(n) for n in t.shape], hashlib.sha256(t.data.tobytes()).hexdigest()]
            for t in reader.tensors]


def lines(values):
    return "[\n" + ",\n".join("  " + json.dumps(v, separators=(",", ":")) for v in values) + "\n ]"


def write(path, source, changed, metadata, tensors, f32):
    path.write_text(
        "{\n" + f' "converter": {json.dumps(source)},\n "changed": {json.dumps(changed)},\n'
        f' "metadata": {lines(metadata)},\n "tensors": {lines(tensors)},\n "f32": {lines(f32)}\n}}\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama_cpp", type=pathlib.Path)
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--keep", type=pathlib.Path)
    parser.add_argument("--forward", action="store_true")
    args = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    sys.path[:0] = [str(args.llama_cpp / "gguf-py"), str(args.llama_cpp)]
    import gguf
    import transformers

    importlib.import_module("conversion")
    if not transformers.__version__.startswith("4.57"):
        sys.exit("llama.cpp's converter wants transformers 4.57.6")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    source = f"llama.cpp in llama-cpp-python 0.3.36, transformers {transformers.__version__}"
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        out = args.keep or pathlib.Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        for name in args.only or sorted(p.name for p in FOLDERS.iterdir() if p.is_dir()):
            if name in WITHOUT:
                continue
            directory = FOLDERS / name
            changed = {k: t[name] for k, t in [("pre", PRE), ("config", CONFIG), ("code", CODE), ("tokenizer", RANKED)] if name in t}
            try:
                read = {}
                config = json.loads((directory / "config.json").read_text())
                half = {"float16": "f16", "bfloat16": "bf16"}[config.get("dtype") or config["torch_dtype"]]
                for outtype in (half, "f32"):
                    path = out / f"{name}-{outtype}.gguf"
                    convert(directory, outtype, path, changed)
                    read[outtype] = gguf.GGUFReader(path)
            except Exception as error:  # the rest should still be made
                print(f"{name:22} the converter failed: {type(error).__name__}: {error}")
                failed = True
                continue
            tensors, f32 = tensors_of(read[half]), tensors_of(read["f32"])
            write(directory / "gguf.json", source, changed, metadata_of(read[half]), tensors,
                  [t for t in f32 if t not in tensors] if name in F32 else [])
            note = ""
            if args.forward:
                import llama_cpp_peer

                note = llama_cpp_peer.report(directory, out / f"{name}-f32.gguf")
            print(f"{name:22} {len(tensors):3} tensors  {note}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
