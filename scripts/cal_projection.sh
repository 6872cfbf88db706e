#!/usr/bin/env bash
# cal_projection.sh GPU_ID: adds to a table of answers their projection on the vector (MODEL, TRAIT, OUT, LAYER, FILE).
set -eu; M=${MODEL:-village} T=${TRAIT:-wicked} J=${JUDGE:-village} N=${TOKENS:-64} D=${OUT:-runs/persona-steps} L=${LAYER:-5}; export CUDA_VISIBLE_DEVICES=${1:-0}
exec trimtab project --model "$M" --vector "${VECTOR:-$D/vectors/${T}_response_avg_diff.pt}" --layer "$L" --file "${FILE:-$D/${T}_eval.csv}"
