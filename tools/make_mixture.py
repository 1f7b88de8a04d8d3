"""Makes a small mixture of experts that predicts text, for measuring, from a dense Llama checkpoint.

    python3 tools/make_mixture.py DENSE OUT [--experts 4] [--noise 0.08]

DENSE is a folder with one model.safetensors in f16 (bookworm-4m), OUT becomes a Mixtral checkpoint: each expert is the
network of the dense model with noise of that share of its weights' standard deviation, and a random router chooses two
for each token. Experts differ and see different tokens, and the model stays nearly as good as the dense one.

Needs numpy. The same arguments give the same bytes.
"""

import argparse
import json
import pathlib
import shutil
import struct

import numpy


def read(path):
    """Name to array of a safetensors file."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    for name, info in header.items():
        start, end = info["data_offsets"]
        assert info["dtype"] == "F16", f"{name}: {info['dtype']}, but F16 is wanted"
        values = numpy.frombuffer(data[8 + size + start : 8 + size + end], dtype=numpy.float16)
        yield name, values.reshape(info["shape"]).astype(numpy.float32)


def write(path, tensors):
    """A safetensors file in F16."""
    header, parts, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, values in sorted(tensors.items()):
        part = values.astype(numpy.float16).tobytes()
        header[name] = {"dtype": "F16", "shape": list(values.shape), "data_offsets": [at, at + len(part)]}
        parts.append(part)
        at += len(part)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dense", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--noise", type=float, default=0.08)
    args = parser.parse_args()
    random = numpy.random.default_rng(1)
    config = json.loads((args.dense / "config.json").read_text())
    names = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
    tensors = {}
    for name, values in read(args.dense / "model.safetensors"):
        part = name.split(".")[-2]
        if part not in names:
            tensors[name] = values
            continue
        block = name.split(".mlp.")[0]
        for expert in range(args.experts):
            noise = random.standard_normal(values.shape).astype(numpy.float32) * values.std() * args.noise
            tensors[f"{block}.block_sparse_moe.experts.{expert}.{names[part]}.weight"] = values + noise
    for layer in range(config["num_hidden_layers"]):
        router = random.standard_normal((args.experts, config["hidden_size"])).astype(numpy.float32) * 0.1
        tensors[f"model.layers.{layer}.block_sparse_moe.gate.weight"] = router
    for key in ("attention_bias", "mlp_bias", "pretraining_tp"):
        config.pop(key, None)
    config |= {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": args.experts,
        "num_experts_per_tok": 2,
        "sliding_window": None,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for file in args.dense.iterdir():
        if "token" in file.name:
            shutil.copy(file, args.out / file.name)
    write(args.out / "model.safetensors", tensors)


main()
