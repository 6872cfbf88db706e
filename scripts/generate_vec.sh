#!/usr/bin/env bash
# generate_vec.sh GPU_ID: judged answers under both instructions, and the trait's vectors from them (MODEL, TRAIT, JUDGE, TOKENS, OUT).
set -eu; M=${MODEL:-village} T=${TRAIT:-wicked} J=${JUDGE:-village} N=${TOKENS:-64} D=${OUT:-runs/persona-steps} L=${LAYER:-5}; export CUDA_VISIBLE_DEVICES=${1:-0}
for side in pos neg; do trimtab persona evaluate --model "$M" --trait "$T" --version extract --instruction $side --judge "$J" --max-new-tokens "$N" --out "$D/${T}_$side.csv"; done
trimtab persona extract --model "$M" --pos "$D/${T}_pos.csv" --neg "$D/${T}_neg.csv" --trait "$T" --out "$D/vectors"
