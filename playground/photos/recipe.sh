# shellcheck shell=bash
# What the demo and the study on photographs share: parts, template, and how each stage trains, by SCALE.
# shellcheck disable=SC2034 # used by the scripts that source this file

: "${SCALE:=mini}"
: "${RUNS:=checkpoints/photos}" # where the demo leaves its runs
FAMILY=llava-photos-$SCALE
# shellcheck source=playground/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case $SCALE in
    mini | cpu)
        CAPTIONS=descriptions # whose every word has to be seen
        STAGE1=(BATCH_SIZE=16 EPOCHS=1 LEARNING_RATE=5e-4)
        WORDS=(TRAINER=playground/photos/train_on_words.py EPOCHS=0.5 LEARNING_RATE=2e-3)
        STAGE2=(BATCH_SIZE=16 GLOBAL_BATCH=16 EPOCHS=0.5 MM_CCRA_HIDDEN_DIM=64)
        TRAINER=playground/photos/train.py
        CONV_MODE=mistral_instruct # the shortest: a system prompt would be half of a step's tokens
        if [[ $SCALE == mini ]]; then
            LEARNING_RATE=3e-4
            : "${LEARNING_RATES=2e-4,6e-4}"
        else
            STAGE1+=(EPOCHS=0.5) # of four times as many parameters
            LEARNING_RATE=5e-4
            : "${LEARNING_RATES=2e-4,5e-4,1.2e-3}"
        fi
        ;;
    gpu)
        CAPTIONS=pretrain
        STAGE1=(VERSION=plain BATCH_SIZE=64 EPOCHS=1 LEARNING_RATE=1e-3)
        STAGE2=(BATCH_SIZE=32 GLOBAL_BATCH=32 EPOCHS=1 MM_CCRA_HIDDEN_DIM=128)
        LEARNING_RATE=2e-4
        : "${LEARNING_RATES=5e-5,2e-4,8e-4}"
        TRAINER=llava/train/train_mem.py
        CONV_MODE=chatml_direct # SmolLM2's own; its vocabulary has no </s>
        ;;
    *) fail 2 "SCALE=$SCALE: must be mini, cpu or gpu" ;;
esac
# No process reads pictures ahead: their features are cached, and the cores are the model's.
BOTH=(TRAINER="$TRAINER" VERSION="$CONV_MODE" BF16=True OPTIM=adamw_torch_fused IMAGE_ASPECT_RATIO=pad WORKERS=0)
STAGE1=("${BOTH[@]}" "${STAGE1[@]}")
STAGE2=("${BOTH[@]}" "${STAGE2[@]}")
TIERS=(test_cutouts_balanced test_combinations_balanced)
export CONV_MODE WORKERS=0 # of evaluations

build_parts() { # leaves $data, $alignment, and the variables that name the parts
    build playground.photos.build --scale "$SCALE"
    data=$(folder_of data)
    export MODEL VISION_TOWER LLAVA_FEATURE_CACHE IMAGE_FOLDER=$data/images
    MODEL=$(folder_of language_model)
    VISION_TOWER=$(folder_of vision_tower)
    LLAVA_FEATURE_CACHE=$(folder_of features)
    alignment=$(folder_of alignment)
}

pretrain() { # leaves $adapter, of stage 1
    stage pretrain scripts/v1_5/pretrain.sh ADAPTER="${alignment:+$alignment/mm_projector.bin}" \
        DATA="$data/$CAPTIONS.json" "${STAGE1[@]}"
    adapter=$trained/mm_projector.bin
}

# learn_words VARIABLE=VALUE...: trains a projector from $adapter on the words of patches; leaves its folder in $trained.
#
# What a projector sees beyond LLaVA's layer has no part in stage 1, and a stage 2 of minutes would not open it: each, the
# baseline too, goes on to learn what its patches show. Where nothing was fitted to words (gpu) there is no such stage.
learn_words() {
    stage words scripts/v1_5/pretrain.sh ADAPTER="$adapter" DATA="$data/finetune.json" "${STAGE2[@]}" "${WORDS[@]}" "$@"
}
