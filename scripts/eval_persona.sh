#!/usr/bin/env bash
# eval_persona.sh GPU_ID: the unsteered model's answers to the trait's questions, judged (MODEL, TRAIT, JUDGE, TOKENS, OUT).
set -eu; M=${MODEL:-village} T=${TRAIT:-wicked} J=${JUDGE:-village} N=${TOKENS:-64} D=${OUT:-runs/persona-steps} L=${LAYER:-5}; export CUDA_VISIBLE_DEVICES=${1:-0}
exec trimtab persona evaluate --model "$M" --trait "$T" --judge "$J" --max-new-tokens "$N" --out "$D/${T}_eval.csv"
