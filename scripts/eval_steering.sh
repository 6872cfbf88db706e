#!/usr/bin/env bash
# eval_steering.sh GPU_ID: the same, steered by the vector of generate_vec.sh (and LAYER, COEFFICIENT).
set -eu; M=${MODEL:-village} T=${TRAIT:-wicked} J=${JUDGE:-village} N=${TOKENS:-64} D=${OUT:-runs/persona-steps} L=${LAYER:-5}; export CUDA_VISIBLE_DEVICES=${1:-0}
exec trimtab persona evaluate --model "$M" --trait "$T" --judge "$J" --max-new-tokens "$N" --vector "${VECTOR:-$D/vectors/${T}_response_avg_diff.pt}" --layer "$L" --coefficient "${COEFFICIENT:-1.5}" --out "$D/${T}_steered.csv"
