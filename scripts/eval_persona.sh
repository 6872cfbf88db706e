#!/usr/bin/env bash
# eval_persona.sh GPU_ID: the unsteered model's answers to the trait's questions, judged.
# Settings: MODEL, TRAIT, JUDGE, TOKENS (of an answer), OUT (folder).
set -eu; export CUDA_VISIBLE_DEVICES=${1:-0}; TRAIT=${TRAIT:-wicked} OUT=${OUT:-runs/persona-steps}
trimtab persona evaluate --model "${MODEL:-village}" --trait "$TRAIT" --judge "${JUDGE:-village}" --max-new-tokens "${TOKENS:-64}" --out "$OUT/${TRAIT}_eval.csv"
