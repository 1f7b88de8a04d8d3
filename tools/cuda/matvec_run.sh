#!/bin/bash
# matvec_run.sh FOLDER: compiles repack.cu and matvec.cu for every format (NVRTC; $NVRTC is the command that compiles) for sm_90
# into FOLDER and copies the scripts that check and time them there. Then, on a machine with a card:
#   cd FOLDER && python3 check_matvec.py
# Needs the Python package gguf; GGUF_PACKAGE is its folder where that is not installed.
set -euo pipefail
folder=$1
here=$(dirname "$(realpath "$0")")
nvrtc=${NVRTC:-python3 $here/nvrtc.py}
kernels=$here/../../crates/compute/kernels
mkdir -p "$folder"
cp "$here"/{formats,card,matvec_args,check_matvec}.py "$folder"
rm -rf "$folder/gguf" && mkdir "$folder/gguf" && cp "${GGUF_PACKAGE:-$(python3 -c "import gguf, os; print(os.path.dirname(gguf.__file__))")}"/*.py "$folder/gguf"
job() { $nvrtc "$kernels/$1.cu" "$2" -o "$folder/$3" "${@:4}" > "$folder/$3.log" || { cat "$folder/$3.log"; exit 1; }; rm "$folder/$3.log"; }
wait_for_one() { while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-2}" ]; do wait -n; done; }
job repack compute_75 repack.ptx
job matvec compute_75 matvec_q4_0.ptx -D FORMAT=Q4_0
formats=${FORMATS:-Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL NF4 FP4 MXFP4 NVFP4 Q1_0 Q2_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS TQ1_0 TQ2_0 IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S F16 BF16 F32}
for f in $formats; do
    wait_for_one; job matvec sm_90 "matvec_${f,,}.cubin" -D FORMAT=$f &
done
for v in ${VARIANTS-}; do  # for example Q4_K:depth2:-DUNIT_DEPTH=2
    IFS=: read -r f label option <<< "$v"; wait_for_one; job matvec sm_90 "matvec_${f,,}.$label" -D FORMAT=$f "$option" &
done
wait
