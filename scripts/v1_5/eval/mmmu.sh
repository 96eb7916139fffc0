#!/usr/bin/env bash
# MMMU: answers the validation questions; accuracy by discipline and subject.
#
#   CKPT=./checkpoints/llava-v1.5-7b-ccra bash scripts/v1_5/eval/mmmu.sh
#
# Defaults:
#   DATA=EVAL_DATA/mmmu              the benchmark's folder
#   SPLIT=validation                 split to answer
#   SOURCE=DATA/MMMU                 the data set: a folder per subject with SPLIT-*.parquet
#   IMAGES=DATA/images               gets the pictures
#   ANSWERS=DATA/answers/SPLIT/NAME  gets ANSWERS.jsonl and ANSWERS_output.json

set -euo pipefail
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib/evaluate.sh"

: "${DATA:=$EVAL_DATA/mmmu}"
: "${SPLIT:=validation}"
: "${SOURCE:=$DATA/MMMU}"
: "${IMAGES:=$DATA/images}"
: "${ANSWERS:=$DATA/answers/$SPLIT/$NAME}"

[[ -d $SOURCE ]] || fail 2 "SOURCE=$SOURCE: no such folder (looked in $ROOT); set it to the MMMU data set (huggingface.co/datasets/MMMU/MMMU)"
questions=$DATA/llava_mmmu_$SPLIT.jsonl

python scripts/convert_mmmu_to_llava.py --src "$SOURCE" --split "$SPLIT" --dst "$questions" --image-folder "$IMAGES"
answer_questions "$questions" "$ANSWERS" "$ANSWERS.jsonl" \
    llava.eval.model_vqa_loader --image-folder "$IMAGES" "$@"

python -m llava.eval.eval_mmmu --question-file "$questions" --result-file "$ANSWERS.jsonl" \
    --output-file "${ANSWERS}_output.json"
show_result mmmu "$ANSWERS.jsonl" mmmu_accuracy
