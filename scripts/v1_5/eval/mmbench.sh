#!/usr/bin/env bash
# MMBench: answers by letter; the upload file, and accuracies where the table has answers (dev).
#
#   CKPT=./checkpoints/llava-v1.5-7b-ccra bash scripts/v1_5/eval/mmbench.sh
#
# Defaults:
#   DATA=EVAL_DATA/mmbench            the benchmark's folder
#   SPLIT=mmbench_dev_20230712        table to answer: DATA/SPLIT.tsv
#   ASK_IN=en                         of the request for a letter: en or cn
#   ANSWERS=DATA/answers/SPLIT        gets NAME.jsonl
#   UPLOAD=DATA/answers_upload/SPLIT  gets NAME.xlsx for MMBench's server

set -euo pipefail
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib/evaluate.sh"

: "${DATA:=$EVAL_DATA/mmbench}"
: "${SPLIT:=mmbench_dev_20230712}"
: "${ASK_IN:=en}"
: "${ANSWERS:=$DATA/answers/$SPLIT}"
: "${UPLOAD:=$DATA/answers_upload/$SPLIT}"

require_tree "$DATA" \
    "$SPLIT.tsv" "MMBench's table"

answer_questions "$DATA/$SPLIT.tsv" "$ANSWERS/$NAME" "$ANSWERS/$NAME.jsonl" \
    llava.eval.model_vqa_mmbench --single-pred-prompt --lang "$ASK_IN" "$@"

python scripts/convert_mmbench_for_submission.py --annotation-file "$DATA/$SPLIT.tsv" --result-dir "$ANSWERS" \
    --upload-dir "$UPLOAD" --experiment "$NAME"
if [[ $SPLIT == *dev* ]]; then
    python -m llava.eval.eval_mmbench --annotation-file "$DATA/$SPLIT.tsv" --result-file "$ANSWERS/$NAME.jsonl"
    [[ $ASK_IN != en ]] || show_result mmbench "$ANSWERS/$NAME.jsonl" mmbench_circular
else
    show_result mmbench "$ANSWERS/$NAME.jsonl" mmbench_circular "send $UPLOAD/$NAME.xlsx to MMBench's server"
fi
