#!/usr/bin/env bash
# ScienceQA: answers the test problems by letter; accuracy over all and over those with a picture (SQA-IMG).
#
#   CKPT=./checkpoints/llava-v1.5-7b-ccra bash scripts/v1_5/eval/sqa.sh
#
# Defaults:
#   DATA=EVAL_DATA/scienceqa   the benchmark's folder
#   IMAGES=DATA/images/test    pictures that the problems name
#   ANSWERS=DATA/answers/NAME  gets ANSWERS.jsonl, ANSWERS_output.jsonl and ANSWERS_result.json

set -euo pipefail
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib/evaluate.sh"

: "${DATA:=$EVAL_DATA/scienceqa}"
: "${IMAGES:=$DATA/images/test}"
: "${ANSWERS:=$DATA/answers/$NAME}"

require_tree "$DATA" \
    llava_test_CQM-A.json "problems as LLaVA asks them (its eval.zip)" \
    pid_splits.json "ScienceQA's splits" \
    problems.json "ScienceQA's problems"
require_images "ScienceQA's test pictures"

answer_questions "$DATA/llava_test_CQM-A.json" "$ANSWERS" "$ANSWERS.jsonl" \
    llava.eval.model_vqa_science --single-pred-prompt --image-folder "$IMAGES" "$@"

python -m llava.eval.eval_science_qa --base-dir "$DATA" --result-file "$ANSWERS.jsonl" \
    --output-file "${ANSWERS}_output.jsonl" --output-result "${ANSWERS}_result.json"
show_result sqa "$ANSWERS.jsonl" sqa_image_accuracy
