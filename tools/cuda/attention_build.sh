#!/bin/bash
# Compiles the attention, row, expert and statistics kernels to PTX and puts them with their checks and timings into a folder that
# can be sent to a machine with a card:   tools/cuda/attention_build.sh DIR [TARGETS]
# There `bash run.sh` assembles the PTX for the card (nvcc's ptxas) and runs attention_check.py and attention_time.py.
# NVRTC: a command `$NVRTC FILE ARCH [-D X]... -o OUT` (python3 /work/cuda/nvrtc.py where the sessions work).
set -e
here=$(cd "$(dirname "$0")" && pwd)
kernels=$here/../../crates/compute/kernels
nvrtc=${NVRTC:-python3 /work/cuda/nvrtc.py}
out=$1
targets=${2:-"75 80 90"}
mkdir -p "$out"
for target in $targets; do
    for name in rope_store attention_decode attention_exact rows experts statistics; do
        $nvrtc $kernels/$name.cu compute_$target -o $out/$name.$target.ptx | grep -v "^$" | sed "s/^/$name /" &
    done
    wait
    for dim in 64 80 96 112 128 160 192 256; do
        $nvrtc $kernels/attention_prompt.cu compute_$target -D HEAD_DIM=$dim -o $out/attention_prompt_$dim.$target.ptx | grep -v "^$" | sed "s/^/prompt $dim /" &
        [ $dim = 112 ] && wait
    done
    wait
done
cp $here/attention_device.py $here/attention_check.py $here/attention_time.py $out
cat > $out/run.sh <<'RUN'
cd "$(dirname "$0")"
for f in *.ptx; do
    (ptxas -arch=sm_90 -v $f -o ${f%.ptx}.cubin 2>&1 | grep -E "error|spill" | grep -v " 0 bytes spill stores, 0 bytes spill loads" | sed "s/^/$f: /") &
done
wait
date +%T
[ -e attention_check.75.skip ] || for t in 75 80; do [ -e rows.$t.cubin ] && timeout 25 python3 attention_check.py $t 2 ${CASES_OLD:-60} & done
timeout 40 python3 attention_check.py 90 ${SEED:-1} ${CASES:-160}
wait
date +%T
timeout 40 python3 attention_time.py 90 $QUICK
date +%T
RUN
