#!/usr/bin/env bash
# Compares quern with llama.cpp on the same input: quantization time and bytes, prompt and generation speed.
#
#   tools/compare_llama_cpp.sh LLAMA_CPP_BIN_DIR HF_MODEL_DIR [TYPE...]
#
# LLAMA_CPP_BIN_DIR holds llama-quantize and llama-bench. HF_MODEL_DIR is a Llama checkpoint, for example
# what tools/make_random_llama.py writes. The two alternate, ROUNDS times (default 3); read the ratios, not the
# single times. THREADS defaults to 2. Files are written to WORK (default /tmp/quern-compare).
set -euo pipefail
bin=$1 model=$2
shift 2
types=("${@:-Q4_K_M}")
rounds=${ROUNDS:-3} threads=${THREADS:-2} work=${WORK:-/tmp/quern-compare}
quern=${QUERN:-$(dirname "$0")/../target/release/quern}
mkdir -p "$work"

timed() { # NAME COMMAND...: wall seconds and peak memory
    local name=$1
    shift
    local out
    out=$({ /usr/bin/env time -f '%e s  %M KiB' "$@" >"$work/log" 2>&1; } 2>&1) || true
    # GNU time writes to the log, last line.
    printf '  %-28s %s\n' "$name" "${out:-$(tail -n 1 "$work/log")}"
}

[ -e "$work/f16.gguf" ] || "$quern" quantize "$model" --to f16 --no-provenance -o "$work/f16.gguf" --threads "$threads"
for type in "${types[@]}"; do
    echo "quantize F16 GGUF to $type, $threads threads"
    for _ in $(seq "$rounds"); do
        timed llama-quantize "$bin/llama-quantize" "$work/f16.gguf" "$work/peer-$type.gguf" "$type" "$threads"
        timed quern "$quern" quantize "$work/f16.gguf" --to "$type" -o "$work/quern-$type.gguf" --force --no-provenance --threads "$threads"
    done
    echo "speed of $type, $threads threads"
    for _ in $(seq "$rounds"); do
        "$bin/llama-bench" -m "$work/peer-$type.gguf" -p 128 -n 32 -t "$threads" -r 3 2>/dev/null | grep -E 'pp128|tg32'
        "$quern" bench "$work/quern-$type.gguf" --prompt 128 --generate 32 --threads "$threads" --repetitions 3
    done
done
