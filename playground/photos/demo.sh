#!/usr/bin/env bash
# What `make demo-photos` runs: LLaVA's two stages on photographs, with a pretrained vision tower.
#
#   make demo-photos                # SCALE=mini: a small Llama that first learns to read, under an hour on 2 cores
#   SCALE=cpu make demo-photos      # stories15M goes on from its pretraining, about an hour
#   SCALE=gpu make demo-photos      # SmolLM2-135M, more scenes and questions
#
# Everything fetched is checked by its hash; whatever is finished is reused. The study of all projectors that starts
# from this stage 1 is playground/photos/sweep.sh.

set -euo pipefail
# shellcheck source=playground/photos/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"

say "data and parts"
build_parts
echo "$parts"

pretrain

finetune() { # finetune NAME VARIABLE=VALUE...: a projector of these settings; leaves the model's folder in $trained
    local name=$1 start=$adapter
    shift
    if [[ -n $alignment ]]; then
        learn_words "$@"
        start=$trained/mm_projector.bin
    fi
    stage "$name" scripts/v1_5/finetune_ccra.sh ADAPTER="$start" DATA="$data/finetune.json" "${STAGE2[@]}" \
        LEARNING_RATE="$LEARNING_RATE" "$@"
}
# With what the study found to help (docs/study.md): several mixtures of layers, and maps that follow the question.
finetune ccra PROJECTOR=ccra MM_CCRA_DEPTH_GROUPS=3 MM_CCRA_NORMALIZE="query keys" MM_CCRA_GROUNDING=0.1
ccra=$trained
finetune mlp2x_gelu PROJECTOR=mlp2x_gelu
mlp2x_gelu=$trained

report=()
for tier in "${TIERS[@]}"; do
    evaluation ccra "$ccra" "$data/gqa" "$tier" "$data/gqa/data/images"
    ccra_scores=$scored
    evaluation mlp2x_gelu "$mlp2x_gelu" "$data/gqa" "$tier" "$data/gqa/data/images"
    mlp2x_gelu_scores=$scored
    evaluation ccra_blank "$ccra" "$data/gqa" "$tier" "$data/gqa/data/blank_images"
    report+=(--scores "CCRA=$ccra_scores" "mlp2x_gelu=$mlp2x_gelu_scores" "CCRA, blank picture=$scored")
done

say "report"
python -m playground.photos.report "${report[@]}" --titles "${TIERS[@]}" --conv-mode "$CONV_MODE" \
    --checkpoint "$ccra" --gqa "$data/gqa" --table "$RUNS/report.md" --figure "$RUNS/maps.png"
