#!/usr/bin/env bash
# VQAv2: answers the test-dev questions for EvalAI, or scores those of a split whose answers are known.
#
#   CKPT=./checkpoints/llava-v1.5-7b-ccra bash scripts/v1_5/eval/vqav2.sh
#
# Defaults:
#   DATA=EVAL_DATA/vqav2                   the benchmark's folder
#   SPLIT=llava_vqav2_mscoco_test-dev2015  questions to ask: DATA/SPLIT.jsonl
#   IMAGES=DATA/test2015                   pictures that the questions name
#
# Answers go to DATA/answers/SPLIT/NAME/merge.jsonl, the file for EvalAI to DATA/answers_upload/SPLIT/NAME.json; it covers
# the questions of DATA/llava_vqav2_mscoco_test2015.jsonl. ANNOTATIONS=v2_mscoco_val2014_annotations.json, VQAv2's own file
# of a split with answers, scores DATA/SPLIT.jsonl of that split instead.

set -euo pipefail
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib/evaluate.sh"

: "${DATA:=$EVAL_DATA/vqav2}"
: "${SPLIT:=llava_vqav2_mscoco_test-dev2015}"
: "${IMAGES:=$DATA/test2015}"

require_tree "$DATA" \
    "$SPLIT.jsonl" "questions as LLaVA asks them (its eval.zip)"
require_images "COCO's test2015 pictures"
answers=$DATA/answers/$SPLIT/$NAME

answer_questions "$DATA/$SPLIT.jsonl" "$answers" "$answers/merge.jsonl" \
    llava.eval.model_vqa_loader --image-folder "$IMAGES" "$@"

if [[ -n ${ANNOTATIONS-} ]]; then
    python -m llava.eval.eval_vqa --annotation-file "$ANNOTATIONS" --result-file "$answers/merge.jsonl"
    show_result vqav2 "$answers/merge.jsonl" vqa_accuracy
else
    python scripts/convert_vqav2_for_submission.py --dir "$DATA" --split "$SPLIT" --ckpt "$NAME"
    show_result vqav2 "$answers/merge.jsonl" vqa_accuracy "send $DATA/answers_upload/$SPLIT/$NAME.json to EvalAI"
fi
