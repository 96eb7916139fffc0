#!/usr/bin/env bash
# Any LLaVA-format JSON: validation loss, and BLEU, METEOR, CIDEr, ROUGE-L and BERTScore of answers to its first turns.
#
#   CKPT=./checkpoints/llava-v1.5-7b-ccra DATA=./validation.json IMAGES=./playground/data bash scripts/v1_5/eval/text.sh
#
# Defaults:
#   DATA                the samples; must be set
#   IMAGES=             folder of the pictures that the samples name
#   VERSION=v1          conversation template of the loss, as in training
#   ANSWERS=DATA-NAME   gets ANSWERS.jsonl and ANSWERS_loss.jsonl, with the scores beside them
#   BERT_MODEL=         folder of the encoder for BERTScore, such as roberta-large; without it BERTScore is absent
#   BERT_LAYER=17       its layer
#
# METEOR needs Java.

set -euo pipefail
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib/evaluate.sh"

: "${IMAGES:=}"
: "${VERSION:=v1}"
: "${BERT_LAYER:=17}"
[[ -f ${DATA-} ]] || fail 2 "DATA=${DATA-}: no such file (looked in $ROOT); set it to a LLaVA-format JSON"
: "${ANSWERS:=${DATA%.json}-$NAME}"

base=()
[[ -z ${MODEL_BASE-} ]] || base=(--model-base "$MODEL_BASE")
bert=()
[[ -z ${BERT_MODEL-} ]] || bert=(--bert-model "$BERT_MODEL" --bert-layer "$BERT_LAYER")

answer_questions "$DATA" "$ANSWERS" "$ANSWERS.jsonl" llava.eval.model_vqa_science --image-folder "$IMAGES" "$@"
python -m llava.eval.validation_loss --model-path "$CKPT" ${base[@]+"${base[@]}"} --data-path "$DATA" \
    --image-folder "$IMAGES" --version "$VERSION" --batch-size "$BATCH_SIZE" --output "${ANSWERS}_loss.jsonl" \
    ${arguments[@]+"${arguments[@]}"}
python -m llava.eval.eval_text --annotation-file "$DATA" --result-file "$ANSWERS.jsonl" ${bert[@]+"${bert[@]}"}
show_result validation_loss "${ANSWERS}_loss.jsonl" validation_loss
show_result cider "$ANSWERS.jsonl" cider
show_result rouge_l "$ANSWERS.jsonl" rouge_l
[[ -z ${BERT_MODEL-} ]] || show_result bertscore "$ANSWERS.jsonl" bertscore
