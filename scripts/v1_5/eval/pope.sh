#!/usr/bin/env bash
# POPE: yes or no to questions on objects; F1 of each category, and their mean.
#
#   CKPT=./checkpoints/llava-v1.5-7b-ccra bash scripts/v1_5/eval/pope.sh
#
# Defaults:
#   DATA=EVAL_DATA/pope        the benchmark's folder
#   IMAGES=DATA/val2014        pictures that the questions name
#   ANSWERS=DATA/answers/NAME  gets ANSWERS.jsonl

set -euo pipefail
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib/evaluate.sh"

: "${DATA:=$EVAL_DATA/pope}"
: "${IMAGES:=$DATA/val2014}"
: "${ANSWERS:=$DATA/answers/$NAME}"

require_tree "$DATA" \
    llava_pope_test.jsonl "questions as LLaVA asks them (its eval.zip)" \
    coco/ "POPE's annotations: coco_pope_<category>.json, and nothing else"
require_images "COCO's val2014 pictures"

answer_questions "$DATA/llava_pope_test.jsonl" "$ANSWERS" "$ANSWERS.jsonl" \
    llava.eval.model_vqa_loader --image-folder "$IMAGES" "$@"

python -m llava.eval.eval_pope --annotation-dir "$DATA/coco" --question-file "$DATA/llava_pope_test.jsonl" \
    --result-file "$ANSWERS.jsonl"
show_result pope "$ANSWERS.jsonl" pope_f1
