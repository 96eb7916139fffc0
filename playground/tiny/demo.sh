#!/usr/bin/env bash
# What `make demo` runs: LLaVA's two stages and its GQA evaluation on Easy-VQA, with tiny parts, on a CPU.
#
#   make demo                # the sample of 2,000 test questions
#   FULL=1 make demo         # all 9,673
#
# Data, training and evaluation are the real scripts', configured by their variables; nothing here is another way to
# train. Whatever is finished is reused: parts by their recipe, stages by the exact command and the code behind it.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

RUNS=checkpoints/demo
TIER=testdev_balanced
if [[ ${FULL:-0} != 0 ]]; then
    TIER=testdev_all
fi

# Variables of scripts/lib/launch.sh, for both stages. One process needs neither DeepSpeed nor a compiler.
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export LAUNCHER=python REPORT_TO=none WORKERS=1 BF16=False GRADIENT_CHECKPOINTING=False SAVE_STEPS=1000 LOGGING_STEPS=25
# The set is not GQA, only in its format: no published rows beside its scores.
export PUBLISHED=0

say() {
    printf '\n== %d:%02d  %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*" >&2
}

code_of() { # code_of PATH...: the source that decides what a run computes
    find "$@" -type f \( -name '*.py' -o -name '*.sh' \) | LC_ALL=C sort | xargs cat
}

key() { # key: short checksum of standard input
    cksum | cut -d ' ' -f 1
}

# stage NAME SCRIPT VARIABLE=VALUE...: trains unless the same has been trained; leaves the folder in $trained.
stage() {
    local name=$1 script=$2
    shift 2
    trained=$RUNS/llava-tiny-$name-$({
        env "$@" OUTPUT=- DRY_RUN=1 bash "$script"
        code_of llava/*.py llava/model llava/train ccra_patch
    } | key)
    if [[ -f $trained/.finished ]]; then
        say "$name: finished before, in $trained"
        return
    fi
    say "$name: training into $trained"
    env "$@" OUTPUT="$trained" bash "$script"
    touch "$trained/.finished"
}

# evaluation NAME CHECKPOINT IMAGES: scores unless the same has been scored; leaves the file in $scored.
evaluation() {
    local name=$1 checkpoint=$2 images=$3
    scored=$checkpoint/$TIER/$name-$(code_of llava scripts ccra_patch | key)/results.json
    if [[ -f $scored ]]; then
        say "$name: evaluated before, in $scored"
        return
    fi
    say "$name: answering $TIER"
    make eval-gqa CKPT="$checkpoint" DATA="$data/gqa" SPLIT="llava_gqa_$TIER" TIER="$TIER" IMAGES="$images" \
        ANSWERS="$(dirname "$scored")" BATCH_SIZE=32 WORKERS=1 PUBLISHED=0 # the papers' rows are GQA's own
}

say "data and parts"
parts=$(python -m playground.tiny.build)
echo "$parts"
folder_of() { # folder_of PART
    sed -n "s|^$1=||p" <<<"$parts"
}
data=$(folder_of data)
export MODEL VISION_TOWER IMAGE_FOLDER=$data/images
MODEL=$(folder_of language_model)
VISION_TOWER=$(folder_of clip)

stage pretrain scripts/v1_5/pretrain.sh DATA="$data/pretrain.json" \
    BATCH_SIZE=32 EPOCHS=2 LEARNING_RATE=2e-3
adapter=$trained/mm_projector.bin

finetune() { # finetune PROJECTOR
    stage "$1" scripts/v1_5/finetune_ccra.sh PROJECTOR="$1" ADAPTER="$adapter" DATA="$data/finetune.json" \
        BATCH_SIZE=16 GLOBAL_BATCH=16 EPOCHS=1 LEARNING_RATE=1e-3
}
finetune ccra
ccra=$trained
finetune mlp2x_gelu
mlp2x_gelu=$trained

evaluation ccra "$ccra" "$data/gqa/data/images"
ccra_scores=$scored
evaluation mlp2x_gelu "$mlp2x_gelu" "$data/gqa/data/images"
mlp2x_gelu_scores=$scored
evaluation ccra_blank "$ccra" "$data/gqa/data/blank_images"
blank_scores=$scored

say "report"
python -m playground.tiny.report \
    --scores "CCRA=$ccra_scores" "mlp2x_gelu=$mlp2x_gelu_scores" "CCRA, blank picture=$blank_scores" \
    --checkpoint "$ccra" --gqa "$data/gqa" --table "$RUNS/report.md" --figure "$RUNS/maps.png"
