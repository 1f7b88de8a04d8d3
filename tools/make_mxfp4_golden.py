"""Makes fixtures/packed/gpt_oss-mxfp4: the tiny gpt-oss of fixtures/architectures with its experts in MXFP4, as published.

    python3 tools/make_mxfp4_golden.py                 # torch, transformers 5: weights, config, logits
    python3 tools/make_mxfp4_golden.py LLAMA_CPP       # torch, transformers 4.57.6: gguf.json, what llama.cpp's converter writes

The codes are random, the scales too. What they mean is computed by transformers' own code for such checkpoints
(Mxfp4Config(dequantize=True)), in float32. logits.safetensors is as in fixtures/architectures.
"""

import json
import pathlib
import shutil
import sys

import numpy
import safetensors.torch
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLAIN = ROOT / "fixtures/architectures/gpt_oss"
OUT = ROOT / "fixtures/packed/gpt_oss-mxfp4"
# as published
KEPT = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]


def stacks(shape, random):
    """Blocks and scales of a stack that is [experts, columns, rows] unpacked."""
    experts, columns, rows = shape
    blocks = random.integers(0, 256, (experts, rows, columns // 32, 16), dtype=numpy.uint8)
    scales = random.integers(121, 125, (experts, rows, columns // 32), dtype=numpy.uint8)
    return torch.from_numpy(blocks), torch.from_numpy(scales)


def make(seed=0):
    import make_tiny_models

    try:
        make_with(seed)
    except make_tiny_models.Tie:
        make(seed + 1)


def make_with(seed):
    import tokenizers
    import transformers

    import make_tiny_models

    OUT.mkdir(parents=True, exist_ok=True)
    random = numpy.random.default_rng(seed)
    tensors = {}
    for name, tensor in safetensors.torch.load_file(PLAIN / "model.safetensors").items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            tensors[name + "_blocks"], tensors[name + "_scales"] = stacks(tensor.shape, random)
        else:
            tensors[name] = tensor.bfloat16()
    safetensors.torch.save_file(tensors, OUT / "model.safetensors", {"format": "pt"})
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]:
        shutil.copy(PLAIN / name, OUT / name)
    config = json.loads((PLAIN / "config.json").read_text())
    config["torch_dtype"] = "bfloat16"
    config["quantization_config"] = {"modules_to_not_convert": KEPT, "quant_method": "mxfp4"}
    (OUT / "config.json").write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        OUT, dtype=torch.float32, attn_implementation="eager",
        quantization_config=transformers.Mxfp4Config(dequantize=True)).eval()
    raw = tokenizers.Tokenizer.from_file(str(OUT / "tokenizer.json"))
    with torch.no_grad():
        model.float()
    make_tiny_models.check_routing(model, 0.05)
    prompts = make_tiny_models.MODELS["gpt_oss"][2]["prompts"]
    expected = make_tiny_models.prompts_of(model, raw, prompts)
    safetensors.torch.save_file(expected, OUT / "logits.safetensors", {"prompts": json.dumps(prompts)})
    print(sum(p.stat().st_size for p in OUT.iterdir()) / 1024, "KiB", expected["prompt0.logits"].std())


def convert(llama_cpp):
    import tempfile

    sys.path[:0] = [str(pathlib.Path(llama_cpp) / "gguf-py"), llama_cpp]
    import gguf

    import make_conversion_golden

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "out.gguf"
        make_conversion_golden.convert(OUT, "bf16", path, {"pre": make_conversion_golden.PRE["gpt_oss"]})
        read = gguf.GGUFReader(path)
        tensors = make_conversion_golden.tensors_of(read)
    lines = ",\n".join(json.dumps(t) for t in tensors)
    (OUT / "gguf.json").write_text("[\n" + lines + "\n]\n")
    print(len(tensors), "tensors")


if __name__ == "__main__":
    convert(sys.argv[1]) if len(sys.argv) > 1 else make()
