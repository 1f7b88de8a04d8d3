"""Quantizes a model with GPT-QModel and prints the seconds of its quantize call: the peer of quern's GPTQ job.

    python3 tools/peer_gptqmodel.py MODEL OUT --text F [--bits 4] [--group-size 128] [--samples 128]
        [--context 512] [--threads N] [--mse 2.4] [--damp 0.01] [--desc-act] [--asym]

Needs gptqmodel, torch and transformers (from PyPI). Runs on the CPU. The calibration is quern's for a text: the
whole text tokenized, `samples` sequences of `context` tokens (BOS first) spread evenly over it. Both times below are
printed, and as JSON on the last line.
"""

import argparse
import json
import os
import pathlib
import time


def sequences(tokenizer, text, samples, context):
    """As quern_quantize::calibration cuts a text."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    has_bos = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    bos = [tokenizer.bos_token_id] if has_bos else []
    body = context - len(bos)
    count = min(samples, len(ids) // body)
    last = len(ids) - body
    starts = [i * last // max(count - 1, 1) for i in range(count)]
    return [bos + ids[start:start + body] for start in starts]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--text", required=True)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--mse", type=float, default=0.0)
    parser.add_argument("--damp", type=float, default=0.05)
    parser.add_argument("--desc-act", action="store_true")
    parser.add_argument("--asym", action="store_true")
    args = parser.parse_args()

    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    # It fails on machines with fewer cores than its pools need; the arithmetic uses args.threads.
    cores = os.cpu_count
    os.cpu_count = lambda: max(8, cores() or 1)
    import torch
    import transformers
    from gptqmodel import GPTQModel, QuantizeConfig

    torch.set_num_threads(args.threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    text = pathlib.Path(args.text).read_text(encoding="utf-8")
    calibration = [{"input_ids": ids, "attention_mask": [1] * len(ids)}
                   for ids in sequences(tokenizer, text, args.samples, args.context)]
    options = dict(bits=args.bits, group_size=args.group_size, desc_act=args.desc_act, sym=not args.asym,
                   damp_percent=args.damp, mse=args.mse)
    if args.desc_act:
        options["act_group_aware"] = False
    if args.asym:
        options["format"] = "gptq_v2"
    model = GPTQModel.load(args.model, QuantizeConfig(**options), device="cpu")
    started = time.time()
    model.quantize(calibration, batch_size=args.batch_size)
    quantized = time.time() - started
    started = time.time()
    model.save(args.out)
    saved = time.time() - started
    tokenizer.save_pretrained(args.out)
    print(f"quantize {quantized:.1f} s, save {saved:.1f} s, {len(calibration)} sequences, "
          f"{sum(len(c['input_ids']) for c in calibration)} tokens, {args.threads} threads")
    print(json.dumps({"quantize_seconds": quantized, "save_seconds": saved, "sequences": len(calibration)}))


if __name__ == "__main__":
    main()
