#!/usr/bin/env bash
# ScienceQA of models that reason before they answer: answers the test problems, one chunk per GPU.
#
#   CKPT=./checkpoints/llava-13b bash scripts/sqa_eval_batch.sh
#
# Defaults:
#   CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7
#   CONV_MODE=llava_v1                    conversation template
#   DATA=EVAL_DATA/scienceqa              the benchmark's folder
#   QUESTIONS=DATA/llava_test_QCM-LEA.json
#   IMAGES=DATA/images/test               pictures that the problems name
#   ANSWERS=./test_NAME                   gets ANSWERS.jsonl, and the chunks in ANSWERS-chunks
#
# scripts/sqa_eval_gather.sh scores the answers.

set -euo pipefail
: "${CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7}"
: "${CONV_MODE:=llava_v1}"
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/evaluate.sh"

: "${DATA:=$EVAL_DATA/scienceqa}"
: "${QUESTIONS:=$DATA/llava_test_QCM-LEA.json}"
: "${IMAGES:=$DATA/images/test}"
: "${ANSWERS:=./test_$NAME}"

[[ -f $QUESTIONS ]] || fail 2 "QUESTIONS=$QUESTIONS: no such file (looked in $ROOT);" \
    "make it with scripts/convert_sqa_to_llava.py convert_to_llava"
require_images "ScienceQA's test pictures"

answer_questions "$QUESTIONS" "$ANSWERS-chunks" "$ANSWERS.jsonl" \
    llava.eval.model_vqa_science --image-folder "$IMAGES" "$@"
