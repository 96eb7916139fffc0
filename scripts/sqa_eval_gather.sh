#!/usr/bin/env bash
# ScienceQA: scores what scripts/sqa_eval_batch.sh has answered.
#
#   CKPT=./checkpoints/llava-13b bash scripts/sqa_eval_gather.sh
#
# Defaults:
#   DATA=EVAL_DATA/scienceqa  the benchmark's folder
#   ANSWERS=./test_NAME       ANSWERS.jsonl is scored into ANSWERS_output.json and ANSWERS_result.json

set -euo pipefail
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/evaluate.sh"

: "${DATA:=$EVAL_DATA/scienceqa}"
: "${ANSWERS:=./test_$NAME}"

[[ -f $ANSWERS.jsonl ]] || fail 2 "ANSWERS=$ANSWERS: no $ANSWERS.jsonl (looked in $ROOT); run scripts/sqa_eval_batch.sh first"
python -m llava.eval.eval_science_qa --base-dir "$DATA" --result-file "$ANSWERS.jsonl" \
    --output-file "${ANSWERS}_output.json" --output-result "${ANSWERS}_result.json"
