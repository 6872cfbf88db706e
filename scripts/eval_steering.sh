#!/usr/bin/env bash
# eval_steering.sh GPU_ID: the same, steered by the vector of generate_vec.sh.
# Settings: MODEL, TRAIT, JUDGE, TOKENS (of an answer), OUT (folder), VECTOR (file), LAYER, COEFFICIENT.
set -eu; export CUDA_VISIBLE_DEVICES=${1:-0}; TRAIT=${TRAIT:-wicked} OUT=${OUT:-runs/persona-steps}
steer=(--vector "${VECTOR:-$OUT/vectors/${TRAIT}_response_avg_diff.pt}" --layer "${LAYER:-5}" --coefficient "${COEFFICIENT:-1.5}")
trimtab persona evaluate --model "${MODEL:-village}" --trait "$TRAIT" --judge "${JUDGE:-village}" --max-new-tokens "${TOKENS:-64}" "${steer[@]}" --out "$OUT/${TRAIT}_steered.csv"
