#!/usr/bin/env bash
# Compares quern's one command from an FP8 checkpoint to Q4_K_M with llama.cpp's two steps: wall time and peak memory.
#
#   tools/time_fp8.sh LLAMA_CPP_DIR FP8_MODEL_DIR
#
# LLAMA_CPP_DIR is llama.cpp's source tree; its convert_hf_to_gguf.py needs torch and transformers (PYTHON names the
# interpreter, default python3). The second step is llama_model_quantize of libllama through the bindings of
# llama-cpp-python, installed or found as tools/llama_cpp_peer.py says. FP8_MODEL_DIR is what tools/make_random_fp8.py
# writes. The two alternate, ROUNDS times (default 3). THREADS defaults to 2; files go to WORK (default /tmp/quern-fp8).
set -euo pipefail
llama_cpp=$1 model=$2
rounds=${ROUNDS:-3} threads=${THREADS:-2} work=${WORK:-/tmp/quern-fp8} python=${PYTHON:-python3}
quern=${QUERN:-$(dirname "$0")/../target/release/quern}
mkdir -p "$work"

timed() { # NAME COMMAND...: wall seconds and peak memory
    local name=$1
    shift
    rm -f "$work/out.gguf"
    sync
    /usr/bin/env time -o "$work/time" -f '%e s  %M KiB' "$@" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
    printf '  %-34s %s\n' "$name" "$(tail -n 1 "$work/time")"
}

quantize='
import ctypes, sys, llama_cpp
params = llama_cpp.llama_model_quantize_default_params()
params.nthread, params.ftype = int(sys.argv[3]), llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params)))
'
echo "FP8 to Q4_K_M, $threads threads"
for _ in $(seq "$rounds"); do
    timed "convert_hf_to_gguf.py" "$python" "$llama_cpp/convert_hf_to_gguf.py" "$model" --outtype bf16 --outfile "$work/bf16.gguf"
    timed "llama_model_quantize" "$python" -c "$quantize" "$work/bf16.gguf" "$work/out.gguf" "$threads"
    cp "$work/out.gguf" "$work/theirs.gguf"
    rm -f "$work/bf16.gguf"
    timed "quern quantize" "$quern" quantize "$model" --to q4_k_m --allow-requantize -o "$work/out.gguf" -t "$threads" --no-provenance
done
"$quern" diff "$work/out.gguf" "$work/theirs.gguf" | tail -n 20 || true
rm -rf "$work"
