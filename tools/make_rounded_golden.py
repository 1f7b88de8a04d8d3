#!/usr/bin/env python3
"""What torch makes of numbers in FP8, and of the weights of the demo model with scales by output and by block.

    python tools/make_rounded_golden.py fixtures/bookworm-4m fixtures/golden

Needs torch and safetensors. Writes

- float8.bin: pairs of a float32 and the byte of its `float8_e4m3fn`, 5 bytes each: numbers of all sizes, every number
  halfway between two codes, and the neighbours of both. Numbers beyond 448 are clamped first, as quantizers do.
- rounded-bookworm-4m.json: SHA-256 of the tensors of each linear layer. `fp8`: `weight` and `weight_scale`, the largest
  of a row over 448 in the type of the weights. `fp8-block`: `weight` and `weight_scale_inv`, the largest of a block of
  128 x 128 over 448 in float32. Weights are divided in float32.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open

BLOCK = 128
FLOAT8 = torch.float8_e4m3fn


def codes(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(-448, 448).to(FLOAT8)


def numbers() -> torch.Tensor:
    """float32 numbers of interest, both signs."""
    exact = torch.arange(127, dtype=torch.uint8).view(FLOAT8).float()
    middles = (exact[1:] + exact[:-1]) / 2
    torch.manual_seed(1)
    spread = torch.exp2(torch.rand(200) * 24 - 14)
    points = torch.cat([exact, middles, spread, torch.tensor([464.0, 480.0, 1e6, 1e-40])])
    bits = points.view(torch.int32)
    near = torch.cat([bits, (bits - 1).clamp(min=0), bits + 1]).view(torch.float32)
    return torch.cat([near, -near])


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def by_output(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = (weight.float().abs().amax(1, keepdim=True) / 448).to(weight.dtype)
    return codes(weight.float() / scale.float()), scale


def by_block(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = weight.shape
    down, across = -(-rows // BLOCK), -(-columns // BLOCK)
    padded = torch.zeros(down * BLOCK, across * BLOCK)
    padded[:rows, :columns] = weight.float()
    blocks = padded.reshape(down, BLOCK, across, BLOCK)
    scale = blocks.abs().amax((1, 3)) / 448
    quotients = (blocks / scale[:, None, :, None]).reshape(padded.shape)[:rows, :columns]
    return codes(quotients), scale


def main(model: Path, out: Path) -> None:
    values = numbers()
    pairs = zip(values.view(torch.int32).tolist(), codes(values).view(torch.uint8).tolist())
    data = b"".join((bits & 0xFFFFFFFF).to_bytes(4, "little") + bytes([code]) for bits, code in pairs)
    (out / "float8.bin").write_bytes(data)
    found: dict[str, dict[str, str]] = {"fp8": {}, "fp8-block": {}}
    with safe_open(model / "model.safetensors", "pt") as file:
        for name in sorted(file.keys()):
            if not name.endswith("_proj.weight"):
                continue
            weight = file.get_tensor(name)
            for kind, end, make in (("fp8", "_scale", by_output), ("fp8-block", "_scale_inv", by_block)):
                rounded, scale = make(weight)
                found[kind][name] = digest(rounded)
                found[kind][name + end] = digest(scale)
    (out / "rounded-bookworm-4m.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
