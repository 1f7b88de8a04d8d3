#!/usr/bin/env python3
"""Makes checkpoints of layers of 8-bit and 4-bit floats as compressed-tensors, transformers and ModelOpt store them, and
the weights that their own code reads from them.

    python tools/make_float_golden.py fixtures/packed

Needs torch, safetensors, transformers 5 and compressed-tensors (0.20 and transformers 5.24 wrote the fixtures). Writes
NAME/model.safetensors, NAME/config.json and NAME.expected.safetensors with float32 weights, for NAME of

  fp8-block       transformers' Fp8Quantize, blocks of 128 x 128 with weight_scale_inv; one scale for all; ue8m0 scales;
                  read by its Fp8Dequantize
  float-tensors   compressed-tensors: FP8 by tensor, by output and by block (the last one partial), MXFP8, NVFP4, MXFP4
                  and 8-bit integers beside each other ("mixed-precision"); read by each format's decompress
  modelopt-nvfp4  NVFP4 under ModelOpt's names, with hf_quant_config.json; codes and scales are those that
                  compressed-tensors made, the factor is its reciprocal

Scales are made float32 before they are read, so that the libraries compute in float32.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize, Fp8Quantize

FP8 = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False}
FP4 = {"num_bits": 4, "type": "float", "symmetric": True, "dynamic": False}

# Format, settings of the weights, outputs, inputs, type of the scales.
LAYERS = [
    ("float-quantized", FP8 | {"strategy": "tensor"}, 24, 64, torch.bfloat16),
    ("float-quantized", FP8 | {"strategy": "channel"}, 33, 80, torch.bfloat16),
    ("float-quantized", FP8 | {"strategy": "block", "block_structure": [16, 32]}, 40, 80, torch.float32),
    ("mxfp8-quantized", FP8 | {"strategy": "group", "group_size": 32, "scale_dtype": torch.uint8}, 16, 96, torch.bfloat16),
    ("nvfp4-pack-quantized", FP4 | {"strategy": "tensor_group", "group_size": 16, "scale_dtype": torch.float8_e4m3fn}, 24, 80, torch.float32),
    ("mxfp4-pack-quantized", FP4 | {"strategy": "group", "group_size": 32, "scale_dtype": torch.uint8}, 24, 96, torch.bfloat16),
    ("int-quantized", {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}, 16, 64, torch.bfloat16),
]


def grouped_extremes(weight: torch.Tensor, settings: dict) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = weight.shape
    match settings["strategy"]:
        case "tensor":
            groups, dims, shape = weight.reshape(1, -1), (1,), (1,)
        case "channel":
            groups, dims, shape = weight, (1,), (rows, 1)
        case "block":
            m, n = settings["block_structure"]
            padded = torch.nn.functional.pad(weight, (0, -columns % n, 0, -rows % m))
            down, across = padded.shape[0] // m, padded.shape[1] // n
            groups, dims, shape = padded.reshape(down, m, across, n), (1, 3), (down, across)
        case _:
            size = settings["group_size"]
            groups, dims, shape = weight.reshape(rows, -1, size), (2,), (rows, columns // size)
    return groups.amin(dims).reshape(shape), groups.amax(dims).reshape(shape)


def compressed(form: str, settings: dict, weight: torch.Tensor, scale_type: torch.dtype):
    args = QuantizationArgs(**settings)
    scheme = QuantizationScheme(targets=["Linear"], weights=args, format=form)
    low, high = grouped_extremes(weight, settings)
    state = {"weight": weight}
    factor = None
    if settings["strategy"] == "tensor_group":
        factor = generate_gparam(low.amin(), high.amax()).reshape(1)
        state["weight_global_scale"] = factor
    scale, _ = calculate_qparams(low, high, args, global_scale=factor)
    state["weight_scale"] = scale if scale.dtype == torch.float8_e4m3fn else scale.to(scale_type)
    if settings["strategy"] == "tensor_group":
        state["weight_scale"] = state["weight_scale"].float()
    kind = BaseCompressor.get_value_from_registry(form)
    packed = kind.compress(dict(state), scheme)
    opened = dict(packed)
    if packed["weight_scale"].dtype in (torch.bfloat16, torch.float16):
        opened["weight_scale"] = packed["weight_scale"].float()
    if form.startswith(("nvfp4", "mxfp4")):
        # The library computes in bfloat16: the same formula with its own table, in float32.
        from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
        from compressed_tensors.quantization.lifecycle.forward import dequantize

        rows, width = packed["weight_packed"].shape
        codes = unpack_fp4_from_uint8(packed["weight_packed"], rows, width * 2, dtype=torch.float32)
        scales = kind._decompress_scale(packed["weight_scale"], torch.float32)
        plain = dequantize(x_q=codes, scale=scales, args=args, global_scale=factor, dtype=torch.float32)
    else:
        plain = kind.decompress(opened, scheme)["weight"]
    assert plain.shape == weight.shape
    return packed, plain.float(), json.loads(scheme.model_dump_json())


def write(out: Path, name: str, tensors: dict, expected: dict, config: dict, more: dict = {}) -> None:
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"} | config
    for file, value in ({"config.json": config} | more).items():
        (folder / file).write_text(json.dumps(value, indent=1) + "\n")
    save_file({k: v.contiguous() for k, v in expected.items()}, out / f"{name}.expected.safetensors")
    sizes = [p.stat().st_size for p in (folder / "model.safetensors", out / f"{name}.expected.safetensors")]
    print(name, sizes, {k: (str(v.dtype), list(v.shape)) for k, v in tensors.items()})


def float_tensors(out: Path) -> dict:
    tensors, expected, groups, kept = {}, {}, {}, {}
    for number, (form, settings, rows, columns, scale_type) in enumerate(LAYERS):
        weight = torch.randn(rows, columns) * 0.05
        packed, plain, group = compressed(form, settings, weight, scale_type)
        name = f"model.layers.{number}.up_proj"
        tensors |= {f"{name}.{key}": value for key, value in packed.items()}
        if form == "nvfp4-pack-quantized":
            tensors[f"{name}.input_global_scale"] = torch.tensor([37.5])
            kept = {"packed": packed, "plain": plain}
        expected[f"{name}.weight"] = plain
        group["targets"] = [f"re:.*layers\\.{number}\\.up_proj"]
        groups[f"group_{number}"] = group
    tensors["lm_head.weight"] = torch.randn(8, 16).to(torch.bfloat16)
    quantization = {
        "quant_method": "compressed-tensors",
        "format": "mixed-precision",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": groups,
    }
    write(out, "float-tensors", tensors, expected, {"quantization_config": quantization})
    return kept


def fp8_block(out: Path) -> None:
    tensors, expected = {}, {}
    for number, (rows, columns, block, scale_fmt) in enumerate(
        [(256, 128, [128, 128], None), (24, 64, None, None), (128, 128, [128, 128], None)]
    ):
        settings = SimpleNamespace(weight_block_size=block, scale_fmt=scale_fmt)
        quantizer = SimpleNamespace(quantization_config=settings)
        weight = torch.randn(rows, columns) * 0.05
        state = Fp8Quantize(quantizer).convert({"weight": weight})
        if number == 2:
            # DeepSeek V3.1's scales: powers of two, stored as float32.
            scale = torch.exp2(torch.ceil(torch.log2(state["weight_scale_inv"])))
            state = {"weight": (weight / scale).to(torch.float8_e4m3fn), "weight_scale_inv": scale}
        if number == 1:
            state["weight_scale_inv"] = state["weight_scale_inv"].reshape(())
            state["activation_scale"] = torch.tensor(0.125)
        name = f"model.layers.{number}.up_proj"
        tensors |= {f"{name}.{key}": value for key, value in state.items()}
        plain = Fp8Dequantize(quantizer)._dequantize_one(
            state["weight"], state["weight_scale_inv"], output_dtype=torch.float32
        )
        assert plain.dtype == torch.float32 and plain.shape == weight.shape
        assert (plain - weight).abs().max() < 0.02
        expected[f"{name}.weight"] = plain
    tensors["lm_head.weight"] = torch.randn(8, 16).to(torch.bfloat16)
    quantization = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    }
    write(out, "fp8-block", tensors, expected, {"quantization_config": quantization})


def modelopt(out: Path, kept: dict) -> None:
    packed, name = kept["packed"], "model.layers.0.up_proj"
    factor = (1.0 / packed["weight_global_scale"]).reshape(())
    tensors = {
        f"{name}.weight": packed["weight_packed"],
        f"{name}.weight_scale": packed["weight_scale"],
        f"{name}.weight_scale_2": factor,
        f"{name}.input_scale": torch.tensor(0.01),
        "lm_head.weight": torch.randn(8, 16).to(torch.bfloat16),
    }
    # Wherever both can be represented: value * (scale * factor).
    low = packed["weight_packed"].int()
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    codes = torch.stack([table[low & 15], table[low >> 4]], dim=-1).reshape(low.shape[0], -1)
    scales = (packed["weight_scale"].float() * factor).repeat_interleave(16, dim=1)
    plain = codes * scales
    assert torch.allclose(plain, kept["plain"], rtol=1e-6)
    quantization = {"quant_algo": "NVFP4", "kv_cache_quant_algo": None, "group_size": 16, "exclude_modules": ["lm_head"]}
    more = {"hf_quant_config.json": {"producer": {"name": "modelopt", "version": "0.29.0"}, "quantization": quantization}}
    write(out, "modelopt-nvfp4", tensors, {f"{name}.weight": plain}, {}, more)


def main(out: Path) -> None:
    torch.manual_seed(7)
    kept = float_tensors(out)
    fp8_block(out)
    modelopt(out, kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
