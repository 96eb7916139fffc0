# shellcheck shell=bash
# What the demos share: stages and evaluations that are reused when nothing behind them has changed. A script sets
#
#   RUNS    folder of its checkpoints
#   FAMILY  how their names begin

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib/common.sh"

# Variables of scripts/lib/launch.sh. One process needs neither DeepSpeed nor a compiler.
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export LAUNCHER=python REPORT_TO=none GRADIENT_CHECKPOINTING=False SAVE_STEPS=1000 LOGGING_STEPS=25
# The sets are not GQA, only in its format: no published rows beside their scores.
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

# build MODULE [FLAG]...: has the parts built, or found built; folder_of then knows them.
build() {
    parts=$(python -m "$@")
}

folder_of() { # folder_of PART
    sed -n "s|^$1=||p" <<<"$parts"
}

# stage NAME SCRIPT VARIABLE=VALUE...: trains unless the same has been trained; leaves the folder in $trained.
stage() {
    local name=$1 script=$2 trainers
    shift 2
    mapfile -t trainers < <(printf '%s\n' "$@" | sed -n 's/^TRAINER=//p')
    trained=$RUNS/$FAMILY-$name-$({
        env "$@" OUTPUT=- DRY_RUN=1 bash "$script"
        code_of llava/*.py llava/model llava/train ccra_patch "${trainers[@]}"
    } | key)
    if [[ -f $trained/.finished ]]; then
        say "$name: finished before, in $trained"
        return
    fi
    say "$name: training into $trained"
    env "$@" OUTPUT="$trained" bash "$script" || return
    touch "$trained/.finished"
}

# finished_stage1 MODEL TOWER: prints the adapter of the latest stage 1 of these parts, if there is one.
finished_stage1() {
    local finished latest=
    for finished in "$RUNS/$FAMILY"-pretrain-*/.finished; do
        if grep -qs "\"$1\"" "${finished%/*}/run.json" && grep -q "\"$2\"" "${finished%/*}/run.json" &&
            [[ -z $latest || $finished -nt $latest ]]; then
            latest=$finished
        fi
    done
    echo "${latest:+${latest%/*}/mm_projector.bin}"
}

# evaluation NAME CHECKPOINT DATA TIER IMAGES: scores unless the same has been scored; leaves the file in $scored.
evaluation() {
    local name=$1 checkpoint=$2 data=$3 tier=$4 images=$5
    scored=$checkpoint/$tier/$name-$(code_of llava scripts ccra_patch | key)/results.json
    if [[ -f $scored ]]; then
        say "$name: evaluated before, in $scored"
        return
    fi
    say "$name: answering $tier"
    CKPT="$checkpoint" DATA="$data" SPLIT="llava_gqa_$tier" TIER="$tier" IMAGES="$images" \
        ANSWERS="$(dirname "$scored")" BATCH_SIZE=32 bash scripts/v1_5/eval/gqa.sh
}
