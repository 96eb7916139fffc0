#!/usr/bin/env bash
# VizWiz: answers the test questions for EvalAI, or scores those of a split whose answers are known.
#
#   CKPT=./checkpoints/llava-v1.5-7b-ccra bash scripts/v1_5/eval/vizwiz.sh
#
# Defaults:
#   DATA=EVAL_DATA/vizwiz                 the benchmark's folder
#   QUESTIONS=DATA/llava_test.jsonl       questions as LLaVA asks them
#   IMAGES=DATA/test                      pictures that the questions name
#   ANSWERS=DATA/answers/NAME             gets ANSWERS.jsonl
#   UPLOAD=DATA/answers_upload/NAME.json  the file for EvalAI
#
# ANNOTATIONS=val.json, VizWiz's own file of a split with answers, scores QUESTIONS of that split instead.

set -euo pipefail
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib/evaluate.sh"

: "${DATA:=$EVAL_DATA/vizwiz}"
: "${QUESTIONS:=$DATA/llava_test.jsonl}"
: "${IMAGES:=$DATA/test}"
: "${ANSWERS:=$DATA/answers/$NAME}"
: "${UPLOAD:=$DATA/answers_upload/$NAME.json}"

[[ -f $QUESTIONS ]] || fail 2 "QUESTIONS=$QUESTIONS: no such file (looked in $ROOT); get it from LLaVA's eval.zip"
require_images "VizWiz's test pictures"

answer_questions "$QUESTIONS" "$ANSWERS" "$ANSWERS.jsonl" \
    llava.eval.model_vqa_loader --image-folder "$IMAGES" "$@"

if [[ -n ${ANNOTATIONS-} ]]; then
    python -m llava.eval.eval_vqa --annotation-file "$ANNOTATIONS" --result-file "$ANSWERS.jsonl"
    show_result vizwiz "$ANSWERS.jsonl" vqa_accuracy
else
    python scripts/convert_vizwiz_for_submission.py --annotation-file "$QUESTIONS" --result-file "$ANSWERS.jsonl" \
        --result-upload-file "$UPLOAD"
    show_result vizwiz "$ANSWERS.jsonl" vqa_accuracy "send $UPLOAD to EvalAI"
fi
