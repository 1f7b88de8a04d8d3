"""Makes fixtures/bitsandbytes/*.json: what transformers and bitsandbytes make of the demo model and of small
made-up tensors, on a CPU with one thread (the last bit of a long mean depends on their number).

    /tmp/peers/hf/bin/python tools/make_bitsandbytes_golden.py [NF4_CHECKPOINT INT8_CHECKPOINT]

Needs torch, transformers, accelerate and bitsandbytes (made with 2.15, 5.23, 1.x and 0.50.2). The optional
arguments are checkpoints of the demo model made elsewhere: they must agree with what is made here.
"""

import hashlib
import json
import random
import struct
import sys
import tempfile
from pathlib import Path

import torch
from bitsandbytes import functional
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "fixtures/bitsandbytes"
MODEL = ROOT / "fixtures/bookworm-4m"

# scheme, doubly quantized
CHECKPOINTS = [("nf4", True), ("nf4", False), ("fp4", True), ("fp4", False), ("int8", False)]

# scheme, doubly quantized, block size, type, shape, how many of the first values are zero
CASES = [
    ("nf4", True, 64, "bfloat16", [24, 50], 0),
    ("nf4", True, 64, "float32", [7, 9], 0),
    ("nf4", False, 64, "float32", [7, 9], 0),
    ("nf4", True, 64, "float16", [16, 128], 200),
    ("nf4", True, 256, "float32", [300, 257], 1000),
    ("nf4", True, 4096, "float16", [100, 130], 0),
    ("nf4", False, 32, "bfloat16", [1, 33], 33),
    ("nf4", True, 64, "float32", [2100, 1000], 0),
    ("fp4", True, 32, "float32", [33, 31], 0),
    ("fp4", False, 128, "bfloat16", [5, 5], 0),
    ("fp4", True, 512, "float16", [77, 40], 512),
    ("int8", False, 0, "float32", [33, 31], 31),
    ("int8", False, 0, "bfloat16", [16, 100], 0),
    ("int8", False, 0, "float16", [3, 1], 0),
    ("int8", False, 0, "float32", [70, 2048], 0),
]

MEANS = [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 63, 64, 100, 511, 512, 513, 1000, 2047, 2048, 2049, 8191, 8192,
         16384, 20000, 32767, 65536, 100003, 131072, 262147]


def made_up(count, zeros=0):
    """Reproducible values in [-1/8, 1/8], dense around zero; every step is exact or rounded once in f32."""
    i = torch.arange(count, dtype=torch.int64)
    x = (((i * 2654435761) % 2**32) >> 8).to(torch.float32) / 8388608.0 - 1.0
    x = x * x * x * 0.125
    x[:zeros] = 0
    return x


def digest(data):
    return hashlib.sha256(data).hexdigest()[:32]


def read(path):
    raw = path.read_bytes()
    (n,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + n])
    header.pop("__metadata__")
    tensors = {}
    for name, t in sorted(header.items()):
        begin, end = (8 + n + o for o in t["data_offsets"])
        tensors[name] = (t["dtype"], t["shape"], raw[begin:end])
    return tensors


def golden(folder):
    tensors = read(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    states = {n: d.decode() for n, (_, _, d) in tensors.items() if "quant_state" in n}
    hashes = {n: [dtype, shape, digest(d)] for n, (dtype, shape, d) in tensors.items()}
    return {"quantization_config": config, "tensors": hashes, "states": states}


def checkpoint(scheme, double, folder):
    if scheme == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=scheme,
            bnb_4bit_use_double_quant=double,
            bnb_4bit_compute_dtype=torch.float16,
        )
    model = AutoModelForCausalLM.from_pretrained(MODEL, quantization_config=config, device_map="cpu")
    model.save_pretrained(folder)
    return golden(folder)


def raw(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def case(scheme, double, block_size, dtype, shape, zeros):
    rows, columns = shape
    weights = made_up(rows * columns, zeros).to(getattr(torch, dtype)).reshape(shape)
    parts, text = {}, None
    if scheme == "int8":
        codes, scales, _ = functional.int8_vectorwise_quant(weights.to(torch.float16))
        parts = {"weight": raw(codes), "SCB": raw(scales)}
    else:
        packed, state = functional.quantize_4bit(
            weights, blocksize=block_size, compress_statistics=double, quant_type=scheme
        )
        parts["weight"] = raw(packed)
        for name, value in state.as_dict(packed=True).items():
            if "quant_state" in name:
                text = bytes(value.tolist()).decode()
            else:
                parts["weight." + name] = raw(value)
    return {
        "scheme": scheme,
        "double_quant": double,
        "block_size": block_size,
        "dtype": dtype,
        "shape": shape,
        "zeros": zeros,
        "parts": {name: digest(data) for name, data in parts.items()},
        "state": text,
    }


def bits(x):
    return struct.unpack("<I", struct.pack("<f", x))[0]


def floats():
    """f32 values, many of them midway between two texts of 17 digits, as Python prints them."""
    random.seed(1)
    found = [0.0, 1.0, 2.0**24, 2.0**60]
    while len(found) < 150:
        pattern = (random.getrandbits(23) >> random.randrange(20) << random.randrange(10)) & 0x7FFFFF
        found.append(struct.unpack("<f", struct.pack("<I", pattern | random.randrange(90, 160) << 23))[0])
    return [[bits(x), repr(x)] for x in found]


def write(name, value):
    rows = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
    (OUT / name).write_text(f"{{\n{rows}\n}}\n")


def main():
    torch.set_num_threads(1)
    OUT.mkdir(exist_ok=True)
    made = {}
    with tempfile.TemporaryDirectory() as scratch:
        for scheme, double in CHECKPOINTS:
            name = scheme + ("-double" if double else "")
            made[name] = checkpoint(scheme, double, Path(scratch) / name)
    for name, folder in zip(["nf4-double", "int8"], sys.argv[1:]):
        theirs = golden(Path(folder))
        for key in ["tensors", "states", "quantization_config"]:
            assert theirs[key] == made[name][key], f"{folder}: {key} differ from what is made here"
        print(folder, "agrees")
    for name, value in made.items():
        write(f"{name}.json", value)
    write(
        "parts.json",
        {
            "cases": [case(*c) for c in CASES],
            "means": [[n, bits(made_up(n).abs().mean().item())] for n in MEANS],
            "floats": floats(),
            "dynamic_map": [bits(v) for v in functional.create_dynamic_map().tolist()],
        },
    )


if __name__ == "__main__":
    main()
