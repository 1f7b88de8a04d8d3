#!/usr/bin/env python3
"""Makes a checkpoint of small layers packed by compressed-tensors, and the weights its own code reads from it.

    python tools/make_compressed_golden.py fixtures/packed

Needs torch, safetensors and compressed-tensors (0.20 wrote the fixtures). Writes compressed-tensors/ with
model.safetensors and config.json, and compressed-tensors.expected.safetensors: each weight as
`PackedQuantizationCompressor.decompress` gives it, with scales made float32 first, so that it computes in float32.
"""

import json
import sys
from pathlib import Path

import torch
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file

# Bits, group size (-1: one for a row), symmetric, outputs, inputs, type of the scales.
LAYERS = [
    (1, 32, True, 32, 64, torch.float16),
    (2, 32, False, 32, 64, torch.bfloat16),
    (3, 64, True, 40, 128, torch.float16),
    (3, 32, False, 33, 96, torch.float32),
    (4, 128, True, 64, 256, torch.bfloat16),
    (4, 32, False, 72, 96, torch.bfloat16),
    (4, -1, True, 300, 64, torch.float16),
    (4, -1, False, 16, 36, torch.bfloat16),
    (5, 32, True, 32, 64, torch.float16),
    (5, 32, False, 20, 64, torch.float16),
    (6, 64, False, 32, 128, torch.bfloat16),
    (7, -1, False, 24, 96, torch.bfloat16),
    (8, 64, True, 32, 128, torch.bfloat16),
    (8, -1, False, 32, 64, torch.bfloat16),
]


def packed(weight: torch.Tensor, args: QuantizationArgs, scale_type: torch.dtype) -> dict[str, torch.Tensor]:
    """Rounded to nearest, by groups; what compressed-tensors makes of it."""
    bits, symmetric = args.num_bits, args.symmetric
    rows, columns = weight.shape
    size = args.group_size if (args.group_size or -1) > 0 else columns
    groups = weight.reshape(rows, columns // size, size)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if symmetric:
        scale = groups.abs().amax(2) / max((high - low) / 2, 0.5)
        zero = None
    else:
        least, most = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
        scale = (most - least) / (high - low)
        zero = (low - least / scale).round().clamp(low, high).to(torch.int8)
    state = {"weight": weight, "weight_scale": scale.to(scale_type)}
    if zero is not None:
        state["weight_zero_point"] = zero
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    return PackedQuantizationCompressor.compress(state, scheme), scheme


def main(out: Path) -> None:
    torch.manual_seed(5)
    tensors, expected, config_groups = {}, {}, {}
    for number, (bits, size, symmetric, rows, columns, scale_type) in enumerate(LAYERS):
        strategy = "channel" if size == -1 else "group"
        given = {} if size == -1 else {"group_size": size}
        args = QuantizationArgs(num_bits=bits, symmetric=symmetric, strategy=strategy, **given)
        weight = (torch.randn(rows, columns) * 0.05 + (0 if symmetric else 0.02)).to(scale_type)
        state, scheme = packed(weight, args, scale_type)
        name = f"model.layers.{number}.up_proj"
        tensors |= {f"{name}.{key}": value.contiguous() for key, value in state.items()}
        plain = PackedQuantizationCompressor.decompress(
            state | {"weight_scale": state["weight_scale"].float()}, scheme
        )["weight"]
        assert plain.dtype == torch.float32 and plain.shape == weight.shape
        expected[f"{name}.weight"] = plain.contiguous()
        config_groups[f"group_{number}"] = {
            "targets": [f"re:.*layers\\.{number}\\.up_proj"],
            "weights": json.loads(args.model_dump_json()),
            "input_activations": None,
            "output_activations": None,
        }
    tensors["lm_head.weight"] = torch.randn(8, 16).to(torch.bfloat16)
    folder = out / "compressed-tensors"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "global_compression_ratio": None,
            "kv_cache_scheme": None,
            "ignore": ["lm_head"],
            "config_groups": config_groups,
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(expected, out / "compressed-tensors.expected.safetensors")
    for path in (folder / "model.safetensors", out / "compressed-tensors.expected.safetensors"):
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
