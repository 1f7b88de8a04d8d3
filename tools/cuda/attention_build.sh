#!/bin/bash
# Compiles the attention, row, expert and statistics kernels to PTX and puts them with their checks and timings into a folder that
# can be sent to a machine with a card:   tools/cuda/attention_build.sh DIR [TARGETS]
# There `bash run.sh` assembles the PTX for the card (nvcc's ptxas) and runs attention_check.py and attention_time.py.
# NVRTC: another command `$NVRTC FILE ARCH [-D X]... -o OUT` than nvrtc.py beside this file.
set -e
here=$(cd "$(dirname "$0")" && pwd)
kernels=$here/../../crates/compute/kernels
nvrtc=${NVRTC:-python3 $here/nvrtc.py}
out=$1
targets=${2:-"75 80 90"}
mkdir -p "$out"
for target in $targets; do
    for name in rope_store attention_decode attention_exact rows experts statistics; do
        $nvrtc $kernels/$name.cu compute_$target -o $out/$name.$target.ptx | grep -v "^$" | sed "s/^/$name /" &
    done
    wait
    [ $target = 90 ] || for dim in 64 80 96 112 128 160 192 256; do
        $nvrtc $kernels/attention_prompt.cu compute_$target -D HEAD_DIM=$dim -o $out/attention_prompt_$dim.$target.ptx | grep -v "^$" | sed "s/^/prompt $dim /" &
        [ $dim = 112 ] && wait
    done
    wait
done
case "$targets" in *90*)
    for dim in 64 80 96 112 128 160 192 256; do
        for groups in 1 2; do
            $nvrtc $kernels/attention_wgmma.cu compute_90a -D HEAD_DIM=$dim -D GROUPS=$groups -o $out/attention_wgmma_${dim}_$groups.90a.ptx | grep -v "^$" | sed "s/^/wgmma $dim $groups /"
        done
    done ;;
esac
(cd $out && tar czf ptx.tgz *.ptx && rm *.ptx)
cp $here/attention_device.py $here/attention_check.py $here/attention_time.py $out
cat > $out/run.sh <<'RUN'
cd "$(dirname "$0")"
tar xzf ptx.tgz
for f in *.ptx; do
    case $f in *.90a.ptx) arch=sm_90a out=${f%.90a.ptx}.90.cubin ;; *) arch=sm_90 out=${f%.ptx}.cubin ;; esac
    (ptxas -arch=$arch -v $f -o $out 2>&1 | grep -E "error|spill" | grep -v " 0 bytes spill stores, 0 bytes spill loads" | sed "s/^/$f: /") &
done
wait
date +%T
for t in 75 80; do [ -e rows.$t.cubin ] && CUDA_LAUNCH_BLOCKING=1 timeout 25 python3 attention_check.py $t 2 ${CASES_OLD:-60} & done
timeout 30 python3 attention_check.py 90 ${SEED:-1} ${CASES:-160} &
[ -n "$SANITIZE" ] && timeout 35 compute-sanitizer --print-limit 3 python3 attention_check.py $SANITIZE 5 24 2>&1 | grep -v "^$" | tail -30 > sanitizer.log &
wait
[ -e sanitizer.log ] && cat sanitizer.log
date +%T
timeout 45 python3 attention_time.py 90 $QUICK
date +%T
RUN
