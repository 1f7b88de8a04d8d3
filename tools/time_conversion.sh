#!/usr/bin/env bash
# Compares quern convert with llama.cpp's converter on the same model: wall time and peak memory.
#
#   tools/time_conversion.sh LLAMA_CPP_DIR HF_MODEL_DIR
#
# LLAMA_CPP_DIR is llama.cpp's source tree; its convert_hf_to_gguf.py needs torch and transformers (PYTHON names
# the interpreter, default python3). HF_MODEL_DIR is a Llama checkpoint, for example what
# tools/make_random_llama.py --shape 1.1b writes. The two alternate, ROUNDS times (default 3), each after a sync;
# read the ratios, not the single times. quern syncs its output, so the peer is timed with a sync behind it as well
# as without. THREADS defaults to 2; files go to WORK (default /tmp/quern-convert).
set -euo pipefail
llama_cpp=$1 model=$2
rounds=${ROUNDS:-3} threads=${THREADS:-2} work=${WORK:-/tmp/quern-convert} python=${PYTHON:-python3}
quern=${QUERN:-$(dirname "$0")/../target/release/quern}
mkdir -p "$work"

timed() { # NAME COMMAND...: wall seconds and peak memory
    local name=$1
    shift
    rm -rf "$work/out" "$work/out.gguf"
    sync
    /usr/bin/env time -o "$work/time" -f '%e s  %M KiB' "$@" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
    printf '  %-34s %s\n' "$name" "$(tail -n 1 "$work/time")"
}

peer=("$python" "$llama_cpp/convert_hf_to_gguf.py" "$model" --outtype f16 --outfile "$work/out.gguf")
echo "Hugging Face to GGUF in f16, $threads threads"
for _ in $(seq "$rounds"); do
    timed convert_hf_to_gguf.py "${peer[@]}"
    timed "convert_hf_to_gguf.py, sync" bash -c '"$@" && sync' - "${peer[@]}"
    timed "quern" "$quern" convert "$model" --to gguf -o "$work/out.gguf" -t "$threads" --no-verify
    timed "quern, verified" "$quern" convert "$model" --to gguf -o "$work/out.gguf" -t "$threads"
done
mv "$work/out.gguf" "$work/source.gguf"
echo "other conversions of the same model, $threads threads"
timed "GGUF to Hugging Face, verified" "$quern" convert "$work/source.gguf" --to safetensors -o "$work/out" -t "$threads"
timed "f16 to bf16, verified" "$quern" convert "$model" --to gguf --dtype bf16 -o "$work/out.gguf" -t "$threads"
rm -rf "$work/out" "$work/out.gguf" "$work/source.gguf"
