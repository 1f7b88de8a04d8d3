#!/usr/bin/env python3
"""Makes checkpoints of layers as AutoRound, MLX, HQQ and torchao store them, and the weights that their own code reads
from them.

    python tools/make_label_golden.py fixtures/packed

Needs torch, safetensors, transformers 5, auto-round, hqq, torchao and mlx (0.16.1, 0.2.8.post1, 0.18.0 and 0.32.4 with
transformers 5.24 wrote the fixtures; `mlx-cpu` on Linux). Writes NAME/model.safetensors, NAME/config.json and
NAME.expected.safetensors with float32 weights, for NAME of

  auto-round-gptq      AutoRound's quantize_and_save of a tiny Llama, packed as GPTQ with zero points less one; asymmetric,
                       4 bits, with one layer of 2 and one of 8 in extra_config
  auto-round-gptq-v2   the same with zero points as they are (packing_format auto_round)
  auto-round-awq       packed as AWQ
                       all three read by AutoRound's own layers: what they make of an identity matrix, in float32
  mlx                  mlx.core.quantize: affine of 2, 3, 4, 5, 6 and 8 bits, mxfp4, nvfp4 and mxfp8, read by
                       mlx.core.dequantize
  hqq                  HQQLinear.state_dict of 1, 2, 3, 4 and 8 bits along both axes, read by HQQLinear.dequantize
  torchao              Int8WeightOnlyConfig by output and by group, Float8WeightOnlyConfig, IntxWeightOnlyConfig symmetric
                       and asymmetric, flattened by torchao as transformers does it; read by each subclass's dequantize

Scales are made float32 before they are read, so that the libraries compute in float32.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def write(out: Path, name: str, tensors: dict, expected: dict, config: dict, metadata: dict | None = None) -> None:
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {k: v.contiguous() for k, v in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"} | (metadata or {}))
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"} | config
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({k: v.float().contiguous() for k, v in expected.items()}, out / f"{name}.expected.safetensors")
    sizes = [p.stat().st_size for p in (folder / "model.safetensors", out / f"{name}.expected.safetensors")]
    print(name, sizes)


# AutoRound


def auto_round(out: Path, name: str, packing: str) -> None:
    from auto_round import AutoRound
    from auto_round.export.export_to_autoround.export import dynamic_import_quant_linear_for_packing
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        dtype="float16",
    )
    model = LlamaForCausalLM(config).half()
    tokenizer = Tokenizer(models.WordLevel({str(i): i for i in range(64)}, unk_token="0"))
    own = {"model.layers.0.mlp.down_proj": {"bits": 8}, "model.layers.0.self_attn.q_proj": {"bits": 2}}
    rounder = AutoRound(
        model,
        PreTrainedTokenizerFast(tokenizer_object=tokenizer),
        bits=4,
        group_size=32,
        sym=False,
        iters=0,
        disable_opt_rtn=True,
        layer_config={} if "awq" in packing else own,
    )
    with tempfile.TemporaryDirectory() as scratch:
        rounder.quantize_and_save(scratch, format=packing)
        folder = next(Path(scratch).rglob("config.json")).parent
        written = json.loads((folder / "config.json").read_text())["quantization_config"]
        tensors = {}
        for file in folder.glob("*.safetensors"):
            tensors |= load_file(file)
    # A few layers are enough.
    kept = ["self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"]
    tensors = {k: v for k, v in tensors.items() if any(f".{part}." in k for part in kept)}
    expected = {}
    for part in kept:
        prefix = f"model.layers.0.{part}"
        bits = written.get("extra_config", {}).get(prefix, {}).get("bits", 4)
        sizes = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (64, 64), "mlp.down_proj": (96, 64)}[part]
        kind = dynamic_import_quant_linear_for_packing(packing, bits, 32, False)
        state = {k.removeprefix(prefix + "."): v for k, v in tensors.items() if k.startswith(prefix + ".")}
        expected[f"{prefix}.weight"] = opened(kind, state, bits, 32, *sizes, awq="awq" in packing)
    tensors["lm_head.weight"] = torch.randn(8, 16).half()
    write(out, name, tensors, expected, {"quantization_config": written})


def opened(kind, state: dict, bits: int, group: int, inputs: int, outputs: int, awq: bool) -> torch.Tensor:
    """What a layer of AutoRound's makes of these tensors."""
    if awq:
        from auto_round_extension.torch.qlinear_torch import QuantLinear  # noqa: F401  (AWQ's own layer needs a GPU)
        from auto_round.export.export_to_awq.utils import dequantize_gemm

        return dequantize_gemm(state["qweight"], state["qzeros"], state["scales"].float(), bits, group).T
    layer = kind(bits, group, inputs, outputs, False)
    layer.load_state_dict({k: v for k, v in state.items() if k in dict(layer.named_buffers())}, strict=False)
    layer.scales = layer.scales.float()
    layer.post_init() if hasattr(layer, "post_init") else None
    return layer(torch.eye(inputs)).T


# MLX


def mlx(out: Path) -> None:
    import mlx.core as mx
    import numpy as np

    def tensor(array) -> torch.Tensor:
        if array.dtype == mx.bfloat16:
            return torch.from_numpy(np.array(array.astype(mx.float32))).to(torch.bfloat16)
        return torch.from_numpy(np.array(array))

    mx.random.seed(3)
    settings = [
        ("affine", 4, 64, mx.float16),
        ("affine", 8, 32, mx.bfloat16),
        ("affine", 2, 64, mx.bfloat16),
        ("affine", 3, 64, mx.float16),
        ("affine", 5, 32, mx.float16),
        ("affine", 6, 64, mx.float32),
        ("mxfp4", 4, 32, mx.float32),
        ("nvfp4", 4, 16, mx.float32),
        ("mxfp8", 8, 32, mx.float32),
    ]
    tensors, expected = {}, {}
    quantization = {"group_size": 64, "bits": 4, "mode": "affine"}
    for number, (mode, bits, group, kind) in enumerate(settings):
        name = f"model.layers.{number}.up_proj"
        weight = (mx.random.normal((24, 128)) * 0.05).astype(kind)
        parts = mx.quantize(weight, group_size=group, bits=bits, mode=mode)
        for key, part in zip(("weight", "scales", "biases"), parts, strict=False):
            tensors[f"{name}.{key}"] = tensor(part)
        wide = [p.astype(mx.float32) if mx.issubdtype(p.dtype, mx.floating) else p for p in parts]
        arguments = {"group_size": group, "bits": bits, "mode": mode}
        if mode != "affine":
            arguments["dtype"] = mx.float32
        plain = mx.dequantize(*wide, **arguments)
        assert mx.abs(plain - weight).max() < 0.12, (mode, bits)
        expected[f"{name}.weight"] = tensor(plain)
        if (mode, bits, group) != ("affine", 4, 64):
            quantization[name] = {"group_size": group, "bits": bits} | ({} if mode == "affine" else {"mode": mode})
    tensors["lm_head.weight"] = torch.randn(8, 16).half()
    quantization["lm_head"] = False
    # mlx-lm writes the settings under both keys.
    config = {"quantization": quantization, "quantization_config": quantization}
    write(out, "mlx", tensors, expected, config)


# HQQ


def hqq(out: Path) -> None:
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    torch.manual_seed(9)
    tensors, expected = {}, {}
    settings = [(4, 64, 1), (8, 32, 1), (3, 32, 1), (2, 16, 1), (1, 32, 1), (4, 32, 0), (3, 64, 0), (4, 48, 1)]
    for number, (bits, group, axis) in enumerate(settings):
        name = f"model.layers.{number}.up_proj"
        linear = torch.nn.Linear(96 if group == 48 else 128, 24, bias=False)
        linear.weight.data *= 0.5
        config = BaseQuantizeConfig(nbits=bits, group_size=group, axis=axis)
        kind = torch.float16 if number % 2 else torch.float32
        layer = HQQLinear(linear, config, compute_dtype=kind, device="cpu")
        state = layer.state_dict()
        tensors |= {f"{name}.{key}": value for key, value in state.items()}
        layer.meta["scale"], layer.meta["zero"] = layer.meta["scale"].float(), layer.meta["zero"].float()
        layer.meta["compute_dtype"] = layer.compute_dtype = torch.float32
        expected[f"{name}.weight"] = layer.dequantize()
    tensors["lm_head.weight"] = torch.randn(8, 16).half()
    usual = {"weight_quant_params": {"nbits": 4, "group_size": 64, "axis": 1}}
    quantization = {"quant_config": usual, "quant_method": "hqq", "skip_modules": ["lm_head"]}
    write(out, "hqq", tensors, expected, {"quantization_config": quantization})


# torchao


def torchao(out: Path) -> None:
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import (
        Float8WeightOnlyConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        MappingType,
        PerGroup,
        quantize_,
    )

    torch.manual_seed(11)
    int4 = {"weight_dtype": torch.int4, "granularity": PerGroup(32)}
    settings = [
        Int8WeightOnlyConfig(),
        Int8WeightOnlyConfig(granularity=PerGroup(32)),
        Float8WeightOnlyConfig(),
        IntxWeightOnlyConfig(**int4),
        IntxWeightOnlyConfig(**int4, mapping_type=MappingType.ASYMMETRIC),
    ]
    model = torch.nn.ModuleDict({"model": torch.nn.ModuleDict({"layers": torch.nn.ModuleList()})})
    expected = {}
    for number, config in enumerate(settings):
        linear = torch.nn.Linear(128, 24, bias=False)
        quantize_(linear, config)
        model["model"]["layers"].append(torch.nn.ModuleDict({"up_proj": linear}))
        expected[f"model.layers.{number}.up_proj.weight"] = linear.weight.dequantize().detach()
        assert expected[f"model.layers.{number}.up_proj.weight"].dtype == torch.float32
    tensors, metadata = flatten_tensor_state_dict(model.state_dict())
    quantization = {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_data": {}}}}
    write(out, "torchao", tensors, expected, {"quantization_config": quantization}, metadata)


def main(out: Path, only: list[str]) -> None:
    jobs = {
        "auto-round-gptq": lambda: auto_round(out, "auto-round-gptq", "auto_round:auto_gptq"),
        "auto-round-gptq-v2": lambda: auto_round(out, "auto-round-gptq-v2", "auto_round"),
        "auto-round-awq": lambda: auto_round(out, "auto-round-awq", "auto_round:auto_awq"),
        "mlx": lambda: mlx(out),
        "hqq": lambda: hqq(out),
        "torchao": lambda: torchao(out),
    }
    for name, job in jobs.items():
        if not only or name in only:
            job()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
