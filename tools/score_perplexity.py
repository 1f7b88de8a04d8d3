"""Scores a Hugging Face checkpoint directory in float32, independently of quern.

    python3 tools/score_perplexity.py DIR… --text F [--context 512] [--chunks 40] [--json]

Needs torch, transformers and safetensors. Packed layers (GPTQ v1 and v2 with any g_idx, AWQ, bitsandbytes NF4,
FP4 and int8) are decoded here, from the formats' descriptions, with numpy: neither quern nor the libraries that
wrote them are used. The model is then an ordinary float32 one.

The text is tokenized whole and cut into chunks; the first token of each becomes BOS, and the tokens after
positions context/2 … context-2 are scored, as llama-perplexity and quern do. With --no-bos the text is cut without
BOS in front of it, so that chunks begin one token later: the figures of bookworm-27m that were once taken with torch
(26.9933 in F16, against 26.9546 with it) were taken so.
"""

import argparse
import json
import math
import pathlib
import shutil
import tempfile
import time

import numpy as np


def read_safetensors(path):
    """{name: array}, with bfloat16 widened to float32."""
    with open(path, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(length))
        data = handle.read()
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
             "U8": "u1", "BOOL": "u1"}
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        raw = data[start:end]
        if entry["dtype"] == "BF16":
            wide = np.frombuffer(raw, "<u2").astype(np.uint32) << 16
            array = wide.view(np.float32)
        else:
            array = np.frombuffer(raw, kinds[entry["dtype"]])
        tensors[name] = array.reshape(entry["shape"])
    return tensors


def unstream(words, bits, count):
    """Codes of a little-endian bit stream along axis 0 of 32-bit words: [words, n] -> [count, n]."""
    words = words.astype(np.int64) & 0xFFFFFFFF
    first = np.arange(count) * bits
    word, shift = first // 32, first % 32
    low = words[word] >> shift[:, None]
    following = words[np.minimum(word + 1, len(words) - 1)]
    high = np.where((shift + bits > 32)[:, None], following << (32 - shift)[:, None], 0)
    return (low | high) & ((1 << bits) - 1)


def gptq(parts, config):
    """[out, in] of one GPTQ layer."""
    bits, scales = config["bits"], parts["scales"].astype(np.float32)
    groups, out = scales.shape
    columns = parts["qweight"].shape[0] * 32 // bits
    codes = unstream(parts["qweight"], bits, columns)
    zeros = unstream(parts["qzeros"].T, bits, out).T
    if config.get("checkpoint_format", config.get("format", "gptq")) != "gptq_v2":
        zeros = (zeros + 1) & ((1 << bits) - 1)
    group = parts.get("g_idx")
    if group is None:
        size = config["group_size"]
        group = np.arange(columns) // (columns if size < 0 else size)
    weight = scales[group] * (codes - zeros[group]).astype(np.float32)
    return weight.T


def awq(parts, config):
    """[out, in] of one AWQ layer of version gemm."""
    order = [0, 4, 1, 5, 2, 6, 3, 7]

    def nibbles(words):
        words = words.astype(np.int64) & 0xFFFFFFFF
        columns = [(words >> (4 * place)) & 15 for place in order]
        return np.stack(columns, axis=-1).reshape(words.shape[0], -1)

    codes, zeros = nibbles(parts["qweight"]), nibbles(parts["qzeros"])
    scales = parts["scales"].astype(np.float32)
    group = np.arange(len(codes)) // (len(codes) // len(scales))
    return (scales[group] * (codes - zeros[group]).astype(np.float32)).T


def four_bit(parts, state):
    """[out, in] of one NF4 or FP4 layer; `state` is its quant_state."""
    absmax = parts["absmax"]
    if "nested_absmax" in parts:
        block = np.arange(absmax.size) // state["nested_blocksize"]
        absmax = parts["nested_quant_map"][absmax] * parts["nested_absmax"][block]
        absmax = absmax + np.float32(state["nested_offset"])
    packed = parts["weight"].reshape(-1).view(np.uint8)
    codes = np.stack([packed >> 4, packed & 15], axis=-1).reshape(-1)
    count = math.prod(state["shape"])
    values = parts["quant_map"].astype(np.float32)[codes[:count]]
    scale = absmax.astype(np.float32)[np.arange(count) // state["blocksize"]]
    return (values * scale).reshape(state["shape"])


def decode(tensors, config):
    """All tensors as plain floats under their plain names."""
    quantization = config.get("quantization_config") or {}
    method = quantization.get("quant_method", "")
    out, layers = {}, {}
    for name, array in tensors.items():
        head, _, tail = name.rpartition(".")
        if ".weight." in name:
            head, _, tail = name.partition(".weight.")
        layers.setdefault(head, {})[tail] = array
    for name, parts in layers.items():
        plain = dict(parts)
        if "qweight" in parts:
            is_awq = method == "awq" or parts["qweight"].shape[0] != 0 and "g_idx" not in parts and (
                parts["qweight"].shape[1] * 8 == parts["scales"].shape[1])
            weight = (awq if is_awq else gptq)(parts, quantization)
            plain = {k: v for k, v in parts.items() if k == "bias"} | {"weight": weight}
        elif "SCB" in parts:
            weight = parts["weight"].astype(np.float32) * parts["SCB"].astype(np.float32)[:, None]
            plain = {k: v for k, v in parts.items() if k == "bias"} | {"weight": weight * np.float32(1 / 127)}
        elif state := [k for k in parts if k.startswith("quant_state.bitsandbytes__")]:
            description = json.loads(parts[state[0]].tobytes())
            plain = {k: v for k, v in parts.items() if k == "bias"} | {"weight": four_bit(parts, description)}
        for tail, array in plain.items():
            # safetensors writes memory in its order: rows must be contiguous
            out[f"{name}.{tail}" if name else tail] = np.ascontiguousarray(array, dtype=np.float32)
    return out


def load(directory):
    """The checkpoint as a float32 model of transformers."""
    import safetensors.numpy
    import torch
    import transformers

    directory = pathlib.Path(directory)
    config = json.loads((directory / "config.json").read_text())
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors |= read_safetensors(path)
    plain = decode(tensors, config)
    config.pop("quantization_config", None)
    config.pop("torch_dtype", None)
    config["dtype"] = "float32"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "config.json").write_text(json.dumps(config))
        safetensors.numpy.save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
        for path in directory.glob("generation_config.json"):
            shutil.copy(path, folder)
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True)
    problems = {k: v for k, v in info.items() if v and k != "unexpected_keys"}
    missing = [k for k in info["missing_keys"] if k != "lm_head.weight" or not config.get("tie_word_embeddings")]
    if missing or info.get("mismatched_keys"):
        raise SystemExit(f"{directory}: {problems}")
    return model.eval()


def tokens_of(directory, text):
    """The whole text's tokens with BOS, and BOS."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id else None
    return ([bos] if bos is not None else []) + ids, bos


def score(model, tokens, bos, context, chunks):
    """Negative log-likelihoods of the scored tokens."""
    import torch

    nll = []
    count = min(chunks or len(tokens), len(tokens) // context)
    for index in range(count):
        chunk = list(tokens[index * context:(index + 1) * context])
        if bos is not None:
            chunk[0] = bos
        ids = torch.tensor([chunk])
        with torch.no_grad():
            logits = model(ids).logits[0].float()
        first = context // 2
        log_p = torch.log_softmax(logits[first:-1].double(), dim=-1)
        nll.append(-log_p[torch.arange(len(log_p)), ids[0, first + 1:]])
    return torch.cat(nll).numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="+", metavar="DIR")
    parser.add_argument("--text", required=True)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--chunks", type=int)
    parser.add_argument("--no-bos", action="store_true", help="cut the text without BOS in front of it")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    text = pathlib.Path(args.text).read_text(encoding="utf-8")
    for directory in args.directories:
        started = time.time()
        tokens, bos = tokens_of(directory, text)
        if args.no_bos and bos is not None:
            tokens = tokens[1:]
        nll = score(load(directory), tokens, bos, args.context, args.chunks)
        perplexity, error = math.exp(nll.mean()), nll.std(ddof=1) / math.sqrt(len(nll))
        if args.json:
            print(json.dumps({"model": str(directory), "perplexity": perplexity, "stderr": perplexity * error,
                              "tokens": len(nll)}), flush=True)
        else:
            print(f"{perplexity:.4f} ± {perplexity * error:.4f} over {len(nll)} tokens, "
                  f"{time.time() - started:.0f} s: {directory}", flush=True)


if __name__ == "__main__":
    main()
