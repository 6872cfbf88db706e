#!/usr/bin/env bash
# generate_vec.sh GPU_ID: answers under both instructions, judged, and the trait's vectors from them.
# Settings: MODEL, TRAIT, JUDGE, TOKENS (of an answer), OUT (folder).
set -eu; export CUDA_VISIBLE_DEVICES=${1:-0}; MODEL=${MODEL:-village} TRAIT=${TRAIT:-wicked} OUT=${OUT:-runs/persona-steps}
for side in pos neg; do trimtab persona evaluate --model "$MODEL" --trait "$TRAIT" --version extract --instruction $side --judge "${JUDGE:-village}" --max-new-tokens "${TOKENS:-64}" --out "$OUT/${TRAIT}_$side.csv"; done
trimtab persona extract --model "$MODEL" --pos "$OUT/${TRAIT}_pos.csv" --neg "$OUT/${TRAIT}_neg.csv" --trait "$TRAIT" --out "$OUT/vectors"
