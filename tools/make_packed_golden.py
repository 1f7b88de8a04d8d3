#!/usr/bin/env python3
"""Cuts quantized Hugging Face checkpoints down to their first layer, and stores the weights that their
makers' own code reads from them.

    python tools/make_packed_golden.py CHECKPOINTS fixtures/packed

CHECKPOINTS holds folders that GPT-QModel (gptq, awq) and transformers with bitsandbytes (nf4, int8) wrote,
`bookworm-4m-*`. Needs torch, transformers, bitsandbytes and gptqmodel; a CPU is enough.

For each folder NAME: NAME/model.safetensors with the first layer's tensors as they are, NAME/config.json
(one layer) and NAME/quantize_config.json where there is one; NAME.expected.safetensors with float32 weights:
every fourth row of k_proj (of AWQ, which mixes eight rows, the whole), every 32nd row of the others. GPT-QModel's
layers are given float32 scales first, so that it computes in float32.
"""

import json
import shutil
import struct
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

LAYER = "model.layers.0."


def dequantized_by_gptqmodel(folder: Path) -> dict[str, torch.Tensor]:
    from gptqmodel import BACKEND, GPTQModel
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    method = json.loads((folder / "quantize_config.json").read_text())["quant_method"]
    backend = BACKEND.AWQ_TORCH if method == "awq" else BACKEND.GPTQ_TORCH
    model = GPTQModel.load(str(folder), backend=backend, device="cpu", dtype=torch.float16)
    weights = {}
    for name, module in model.model.named_modules():
        if not (name.startswith(LAYER) and hasattr(module, "qweight")):
            continue
        scales = module.scales.float()
        if method == "awq":
            weight = dequantize_gemm(module.qweight, module.qzeros, scales, module.bits, module.group_size)
        else:
            module.scales = scales
            weight = type(module).__mro__[1].dequantize_weight(module)
            weight = weight.float()
        weights[name + ".weight"] = weight.T.contiguous()
    return weights


def dequantized_by_bitsandbytes(folder: Path) -> dict[str, torch.Tensor]:
    import bitsandbytes.functional as F
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(folder), device_map="cpu")
    weights = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not name.startswith(LAYER) or weight is None or weight.dim() != 2:
            continue
        if getattr(weight, "quant_state", None) is not None:
            weight.quant_state.dtype = torch.float32
            value = F.dequantize_4bit(weight.data, weight.quant_state)
        else:
            scale = weight.SCB if getattr(weight, "SCB", None) is not None else module.state.SCB
            value = F.int8_vectorwise_dequant(weight.data, scale)
        assert value.dtype == torch.float32, name
        weights[name + ".weight"] = value.contiguous()
    return weights


def cut(source: Path, target: Path) -> None:
    """The first layer's tensors in the file's own order; safetensors' writer would sort them."""
    with open(source, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        start = file.tell()
        kept = {k: v for k, v in header.items() if k.startswith(LAYER)}
        data, entries = b"", {"__metadata__": header.get("__metadata__", {})}
        for name, entry in sorted(kept.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            file.seek(start + begin)
            entries[name] = {**entry, "data_offsets": [len(data), len(data) + end - begin]}
            data += file.read(end - begin)
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    target.write_bytes(struct.pack("<Q", len(text)) + text + data)


def main(checkpoints: Path, out: Path) -> None:
    for folder in sorted(checkpoints.glob("bookworm-4m-*-*")):
        if not folder.is_dir():
            continue
        name = folder.name.removeprefix("bookworm-4m-")
        by = dequantized_by_bitsandbytes if name.startswith("bnb") else dequantized_by_gptqmodel
        weights = by(folder)
        assert len(weights) == 7, list(weights)
        target = out / name
        target.mkdir(parents=True, exist_ok=True)
        cut(folder / "model.safetensors", target / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        config["num_hidden_layers"] = 1
        (target / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        if (folder / "quantize_config.json").exists():
            shutil.copyfile(folder / "quantize_config.json", target / "quantize_config.json")
        expected = {}
        for weight, value in weights.items():
            rows = value[:: 1 if "awq" in name else 4] if "k_proj" in weight else value[::32]
            expected[weight] = rows.contiguous()
        save_file(expected, out / f"{name}.expected.safetensors")
        print(name, {k: list(v.shape) for k, v in expected.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
