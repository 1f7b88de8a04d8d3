#!/usr/bin/env python3
"""Makes small files with torch.save, and stores the tensors in them as safetensors.

    python tools/make_pytorch_golden.py fixtures/pytorch

Needs torch and safetensors. NAME.bin or NAME/ is the checkpoint; what quern must read from it is NAME's part of
expected.safetensors (names with `NAME/` before them), every tensor in order as torch itself gives it.
"""

import json
import sys
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file


def linear(rows: int, columns: int, dtype: torch.dtype, start: int = 0) -> torch.Tensor:
    """Numbers that every type holds, none like its neighbour."""
    values = (torch.arange(rows * columns) * 7 + start) % 113
    return values.reshape(rows, columns).to(dtype)


def plain(dtype: torch.dtype = torch.float16) -> OrderedDict:
    """A little model with tied embeddings, as transformers names its tensors."""
    model = OrderedDict()
    model["model.embed_tokens.weight"] = linear(6, 4, dtype)
    model["model.layers.0.mlp.up_proj.weight"] = linear(3, 4, dtype, 5)
    model["model.layers.0.mlp.up_proj.bias"] = linear(1, 3, dtype, 9)[0]
    model["model.norm.weight"] = torch.ones(4, dtype=dtype)
    model["lm_head.weight"] = model["model.embed_tokens.weight"]
    return model


def types() -> dict:
    """Every type that quern has."""
    names = [
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
        "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2",
    ]  # fmt: skip
    model = {}
    for name in names:
        dtype = getattr(torch, name)
        bits = torch.tensor([0, 1], dtype=torch.uint8) if name == "bool" else torch.arange(64, dtype=torch.uint8)
        model[name] = bits.view(dtype).clone()
    model["scalar"] = torch.tensor(2.5)
    model["nothing"] = torch.empty(0, 3)
    return model


def views() -> dict:
    """Views of one storage: some in order, some not."""
    whole = linear(5, 6, torch.float32)
    cube = torch.arange(24, dtype=torch.int16).reshape(2, 3, 4)
    return {
        "whole": whole,
        "row": whole[2],
        "rows": whole[1:4],
        "transposed": whole.T,
        "columns": whole[:, 1:3],
        "every_other": whole[::2, ::3],
        "one_column": whole[:, 4:5],
        "permuted": cube.permute(2, 0, 1),
        "expanded_in_place": whole[3:4].expand(1, 6),
        "diagonal": whole.diagonal(),
    }


def nested() -> dict:
    """What training frameworks save."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(linear(1, parameter.numel(), torch.float32, i).reshape(parameter.shape))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "loss": 0.25,
        "note": "näheres",
        "big": 1 << 80,
        "shape": torch.Size([4, 3]),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "seen": {1, 2},
        "raw": b"bytes",
        "optimizer": optimizer.state_dict(),
        "state_dict": model.state_dict(),
    }


def parameters() -> dict:
    """Parameters themselves, and dicts and lists of tensors."""
    return {
        "encoder": {"weight": torch.nn.Parameter(linear(2, 3, torch.float32))},
        "heads": [linear(1, 2, torch.float16), linear(1, 2, torch.float16, 50)],
        "steps": 7,
    }


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    expected = {}

    def keep(name: str, model: dict) -> None:
        for key, value in model.items():
            expected[f"{name}/{key}"] = value.detach().clone().contiguous()

    def save(name: str, model: dict, tensors: dict, **options) -> None:
        torch.save(model, out / f"{name}.bin", **options)
        keep(name, tensors)

    old = {"_use_new_zipfile_serialization": False}
    for name, options in [
        ("zip", {}),
        ("zip-protocol-4", {"pickle_protocol": 4}),
        ("zip-protocol-5", {"pickle_protocol": 5}),
        ("legacy", old),
        ("legacy-protocol-4", {"pickle_protocol": 4, **old}),
    ]:
        save(name, plain(), plain(), **options)
    save("bfloat16", plain(torch.bfloat16), plain(torch.bfloat16))
    save("types", types(), types())
    for name, options in [("views", {}), ("legacy-views", old)]:
        save(name, views(), views(), **options)
    for name, options in [("nested", {}), ("legacy-nested", old)]:
        save(name, nested(), nested()["state_dict"], **options)
    tensors = parameters()
    flat = {"encoder.weight": tensors["encoder"]["weight"]}
    flat |= {f"heads.{i}": head for i, head in enumerate(tensors["heads"])}
    save("parameters", tensors, flat)

    # Shards with an index, as transformers wrote them. Tied weights are in one shard only.
    folder = out / "sharded"
    folder.mkdir(exist_ok=True)
    model = plain()
    del model["lm_head.weight"]
    keep("sharded", model)
    names = list(model)
    weight_map = {}
    for number, part in enumerate((names[:1], names[1:]), 1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: model[name] for name in part}, folder / file)
        weight_map |= {name: file for name in part}
    total = sum(t.numel() * t.element_size() for t in model.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2) + "\n")

    # What must be refused, by name.
    refused = out / "refused"
    refused.mkdir(exist_ok=True)
    torch.save({"weight": linear(1, 3, torch.float32).expand(4, 3)}, refused / "expanded.bin")
    torch.save({"weight": torch.zeros(2, dtype=torch.complex64)}, refused / "complex.bin")
    torch.save({"weight": torch.zeros(2, 2).to_sparse()}, refused / "sparse.bin")
    torch.save(torch.nn.Linear(2, 2), refused / "module.bin")
    torch.save(torch.zeros(2), refused / "tensor.bin")
    torch.save({"steps": 3}, refused / "no-tensors.bin")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(refused / "torchscript.bin"))

    save_file(expected, out / "expected.safetensors")
    for path in sorted(out.rglob("*")):
        if path.is_file():
            print(path.relative_to(out), path.stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
