#!/usr/bin/env bash
# Speed on an NVIDIA GPU: the table in README.md. Needs a card and some 25 GB of disk.
#
#   python3 tools/make_random_llama.py --shape 7b --tokenizer fixtures/bookworm-4m -o /tmp/llama-7b
#   tools/bench_gpu.sh target/release/quern /tmp/llama-7b /tmp
#
# Prints one table for each model: all layers on the GPU, deep contexts, and 16 of 32 blocks in RAM.
set -euo pipefail
quern=$(realpath "$1") model=$2 folder=$3

bench() {
    echo "== bench ${*##*/}"
    "$quern" bench "$@" -r 5 2>/dev/null
}

for type in q4_0 q4_k_m; do
    out=$folder/bench-$type.gguf
    [ -e "$out" ] || "$quern" quantize "$model" --to "$type" -o "$out"
    bench "$out" -p 512 -n 128
done
bench "$model" -p 512 -n 128
bench "$model" -p 512 -n 128 --load-in nf4
bench "$folder/bench-q4_0.gguf" -p 0 -n 64 -d 0,3968
bench "$folder/bench-q4_k_m.gguf" -p 512,2048 -n 32 --ngl 17
