#!/usr/bin/env bash
# The study of all projectors on photographs (docs/study.md), from the stage 1 of `make demo-photos`, or its own.
#
#   bash playground/photos/sweep.sh --seeds 1 2 3 --out checkpoints/photos/study --jobs 2
#
# Every arm tries the same learning rates with the first seed and takes the best on the validation questions;
# LEARNING_RATES= (none) gives all the demo's. Flags are those of `python -m ccra_patch.sweep`.

set -euo pipefail
# shellcheck source=playground/photos/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"

build_parts
adapter=$(finished_stage1 "$MODEL" "$VISION_TOWER")
[[ -n $adapter ]] || pretrain

# AttAnchor's threshold is the one that copies a tenth of the questions' tokens, as in its paper.
calibration=$(dirname "$adapter")/attanchor.json
if [[ ! -f $calibration ]]; then
    python -m llava.attanchor.calibrate --model-path "$(dirname "$adapter")" --model-base "$MODEL" \
        --conv-mode "$CONV_MODE" --mm_attanchor_direction text_into_image \
        --data "$data/finetune.json" --image-folder "$IMAGE_FOLDER" --output "$calibration" >&2
fi
tau=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["tau"])' "$calibration")

# Layers that a tower of twelve blocks has.
LAYERS=(
    MM_DENSE_CONNECTOR_DCI_LAYERS="0 1 2 3 4 5 6 7 8 9 10 11" MM_DENSE_CONNECTOR_DCI_GROUP_SIZE=6
    MM_MMFUSER_LAYERS="2 4 6 9" MM_MMFUSER_HEADS=6
    MM_IGVA_LAYERS="1 2 3 4 5 6 7 8 9 10 11 12" MM_IGVA_GROUP_SIZE=3 MM_IGVA_HIDDEN_DIM=128
    MM_MLVF_ED_LAYERS="4 8 12"
)

values_of() { # values_of FLAG WORD...: what follows the flag among the words
    local flag=$1 word given=
    shift
    for word in "$@"; do
        case $word in
            "$flag") given=1 ;;
            --*) given= ;;
            *) [[ -z $given ]] || echo "$word" ;;
        esac
    done
}

words_of() { # words_of ARM SEED VARIABLE=VALUE...: one projector, under the name by which stage 2 finds it
    local name=$1-seed$2 seed=$2 folder=$RUNS/$FAMILY-words
    shift 2
    learn_words "${LAYERS[@]}" "$@" SEED="$seed" </dev/null >"$folder/$name.log" 2>&1 ||
        fail 1 "$name did not learn the words; see $folder/$name.log"
    ln -sfn "$(realpath "$trained")" "$folder/$name"
}

# Each arm and seed has a projector of its own from here on, each seed on the same samples. Pinning tokens is no part of
# learning the words, so an arm with AttAnchor shares the projector of the one without.
own=() started=()
if [[ -n $alignment ]]; then
    mapfile -t seeds < <(values_of --seeds "$@")
    mapfile -t chosen < <(values_of --arms "$@")
    at_once=$(values_of --jobs "$@")
    : "${at_once:=1}"
    [[ $at_once =~ ^[1-9][0-9]*$ ]] || fail 2 "--jobs is $at_once; it must be at least 1"
    threads=$(($(nproc) > at_once ? $(nproc) / at_once : 1))
    declare -A trained_for=() # the arm whose projector has these settings
    mkdir -p "$RUNS/$FAMILY-words"
    while IFS='|' read -r name settings; do
        [[ -z ${chosen[*]} || " ${chosen[*]} " == *" $name "* ]] || continue
        own+=(--train-arm "$name" ADAPTER="$RUNS/$FAMILY-words/${trained_for[$settings]=$name}-seed{seed}/mm_projector.bin")
        [[ ${trained_for[$settings]} == "$name" ]] || continue
        IFS='|' read -ra variables <<<"$settings"
        for seed in "${seeds[@]}"; do
            while (($(jobs -pr | wc -l) >= at_once)); do wait -n; done
            OMP_NUM_THREADS=$threads words_of "$name" "$seed" "${variables[@]}" &
            started+=($!)
        done
    done < <(python -m playground.photos.arms)
    for job in "${started[@]}"; do wait "$job"; done
fi

search=(--search LEARNING_RATE="$LEARNING_RATES" --search-eval TIER=val_balanced SPLIT=llava_gqa_val_balanced)
[[ -n $LEARNING_RATES ]] || search=(--train LEARNING_RATE="$LEARNING_RATE")

python -m ccra_patch.sweep --study photos \
    --train MODEL="$MODEL" VISION_TOWER="$VISION_TOWER" ADAPTER="$adapter" DATA="$data/finetune.json" \
    IMAGE_FOLDER="$IMAGE_FOLDER" "${STAGE2[@]}" "${LAYERS[@]}" EXTRA_ARGS="--save_strategy no" "${own[@]}" \
    --train-arm mlp2x_gelu_attanchor MM_ATTANCHOR_TAU="$tau" --train-arm ccra_attanchor MM_ATTANCHOR_TAU="$tau" \
    "${search[@]}" \
    --eval DATA="$data/gqa" CONV_MODE="$CONV_MODE" BATCH_SIZE=50 \
    --evaluation new_cutouts TIER=test_cutouts_balanced SPLIT=llava_gqa_test_cutouts_balanced \
    --evaluation new_combinations TIER=test_combinations_balanced SPLIT=llava_gqa_test_combinations_balanced \
    "$@"
