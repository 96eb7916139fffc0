#!/usr/bin/env bash
# What `make demo-photos` runs: LLaVA's two stages on photographs, with a pretrained vision tower.
#
#   make demo-photos                # SCALE=mini: a small Llama that first learns to read, under an hour on 2 cores
#   SCALE=cpu make demo-photos      # stories15M goes on from its pretraining
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

finetune() { # finetune PROJECTOR
    stage "$1" scripts/v1_5/finetune_ccra.sh PROJECTOR="$1" ADAPTER="$adapter" DATA="$data/finetune.json" \
        "${STAGE2[@]}" LEARNING_RATE="$LEARNING_RATE"
}
finetune ccra
ccra=$trained
finetune mlp2x_gelu
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
