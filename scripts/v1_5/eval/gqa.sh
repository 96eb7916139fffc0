#!/usr/bin/env bash
# GQA: answers the questions, converts the answers to GQA's predictions and scores them (accuracy, binary, open, by type).
#
#   CKPT=./checkpoints/llava-v1.5-7b-ccra bash scripts/v1_5/eval/gqa.sh
#   CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 BATCH_SIZE=16 CKPT=... bash scripts/v1_5/eval/gqa.sh
#
# Defaults:
#   DATA=EVAL_DATA/gqa                    the benchmark's folder; what it must hold is shown when something is missing
#   SPLIT=llava_gqa_testdev_balanced      questions to ask: DATA/SPLIT.jsonl
#   TIER=testdev_balanced                 questions to score: DATA/data/TIER_questions.json
#   IMAGES=DATA/data/images               pictures that the questions name
#   ANSWERS=DATA/answers/SPLIT/NAME       gets the answers of all chunks, merge.jsonl, predictions.json and results.json
#   RESULTS=ANSWERS/results.json          the scores as JSON
#
# The predictions are also left at DATA/data/TIER_predictions.json, where GQA's own eval.py looks for them. Validity and
# plausibility are scored when DATA/data/TIER_choices.json is there.

set -euo pipefail
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib/evaluate.sh"

: "${DATA:=$EVAL_DATA/gqa}"
: "${SPLIT:=llava_gqa_testdev_balanced}"
: "${TIER:=testdev_balanced}"
: "${ANSWERS:=$DATA/answers/$SPLIT/$NAME}"
: "${RESULTS:=$ANSWERS/results.json}"

pictures=()
if [[ -z ${IMAGES-} ]]; then
    IMAGES=$DATA/data/images
    pictures=(data/images/ "GQA's pictures (images.zip)")
fi
require_tree "$DATA" \
    "$SPLIT.jsonl" "questions as LLaVA asks them (its eval.zip): question_id, image, text" \
    "data/${TIER}_questions.json" "GQA's questions with answers and types (questions1.2.zip)" \
    ${pictures[@]+"${pictures[@]}"}
[[ -d $IMAGES ]] || fail 2 "IMAGES=$IMAGES: no such folder (looked in $ROOT); set it to the pictures' folder"

answer_questions "$DATA/$SPLIT.jsonl" "$ANSWERS" "$ANSWERS/merge.jsonl" \
    llava.eval.model_vqa_loader --image-folder "$IMAGES" "$@"

python scripts/convert_gqa_for_eval.py --src "$ANSWERS/merge.jsonl" --dst "$ANSWERS/predictions.json"
cp "$ANSWERS/predictions.json" "$DATA/data/${TIER}_predictions.json"
choices=()
if [[ -f $DATA/data/${TIER}_choices.json ]]; then
    choices=(--choices "$DATA/data/${TIER}_choices.json")
fi
python -m llava.eval.eval_gqa --tier "$TIER" --questions "$DATA/data/${TIER}_questions.json" \
    --predictions "$ANSWERS/predictions.json" --answers "$ANSWERS/merge.jsonl" --json "$RESULTS" \
    ${choices[@]+"${choices[@]}"}
show_result gqa "$ANSWERS/merge.jsonl" "gqa_${TIER}_accuracy"
