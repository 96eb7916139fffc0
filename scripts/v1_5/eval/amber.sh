#!/usr/bin/env bash
# AMBER: yes or no to questions on objects, attributes and relations, and descriptions; hallucination metrics.
#
#   CKPT=./checkpoints/llava-v1.5-7b-ccra bash scripts/v1_5/eval/amber.sh
#
# Defaults:
#   DATA=EVAL_DATA/amber             the benchmark's folder: AMBER's repository with its pictures
#   QUERY=query_all                  queries to ask: DATA/data/query/QUERY.json
#   IMAGES=DATA/image                AMBER's pictures
#   ANSWERS=DATA/answers/QUERY/NAME  gets ANSWERS.jsonl and ANSWERS_responses.json
#
# QUERY=query_discriminative asks the yes-or-no questions alone. Descriptions need NLTK and spaCy with their data.

set -euo pipefail
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib/evaluate.sh"

: "${DATA:=$EVAL_DATA/amber}"
: "${QUERY:=query_all}"
: "${IMAGES:=$DATA/image}"
: "${ANSWERS:=$DATA/answers/$QUERY/$NAME}"

require_tree "$DATA" \
    "data/query/$QUERY.json" "AMBER's queries" \
    data/annotations.json "AMBER's annotations" \
    data/relation.json "which words mean an object" \
    data/safe_words.txt "words that never count"
require_images "AMBER's pictures"
questions=$DATA/llava_amber_$QUERY.jsonl

python scripts/convert_amber_to_llava.py --src "$DATA/data/query/$QUERY.json" --dst "$questions"
answer_questions "$questions" "$ANSWERS" "$ANSWERS.jsonl" \
    llava.eval.model_vqa_loader --image-folder "$IMAGES" "$@"

python -m llava.eval.eval_amber --annotation "$DATA/data/annotations.json" --result-file "$ANSWERS.jsonl" \
    --word-association "$DATA/data/relation.json" --safe-words "$DATA/data/safe_words.txt" \
    --output-file "${ANSWERS}_responses.json"
show_result amber "$ANSWERS.jsonl" amber_accuracy
