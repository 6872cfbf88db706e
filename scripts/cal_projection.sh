#!/usr/bin/env bash
# cal_projection.sh GPU_ID: adds to a table of answers a column with their projection on the vector.
# Settings: MODEL, TRAIT, OUT (folder), VECTOR (file), LAYER, FILE (the table, here eval_persona.sh's).
set -eu; export CUDA_VISIBLE_DEVICES=${1:-0}; TRAIT=${TRAIT:-wicked} OUT=${OUT:-runs/persona-steps}
trimtab project --model "${MODEL:-village}" --vector "${VECTOR:-$OUT/vectors/${TRAIT}_response_avg_diff.pt}" --layer "${LAYER:-5}" --file "${FILE:-$OUT/${TRAIT}_eval.csv}"
