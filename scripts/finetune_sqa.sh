#!/usr/bin/env bash
# ScienceQA with the first LLaVA: trains language model and projector for twelve epochs.
#
#   DATA=llava_train_QCM-LEA.json IMAGE_FOLDER=scienceqa/images/train bash scripts/finetune_sqa.sh
#
# Defaults, LLaVA's own:
#   PROMPT_VERSION=v1
#   MODEL=lmsys/vicuna-13b-v1.3  VERSION=$PROMPT_VERSION  VISION_TOWER=openai/clip-vit-large-patch14
#   ADAPTER=./checkpoints/huggingface/liuhaotian/llava-pretrain-vicuna-13b-v1.3/mm_projector.bin
#   DATA=/Data/ScienceQA/data/scienceqa/llava_train_QCM-LEA.json
#   IMAGE_FOLDER=/Data/ScienceQA/data/scienceqa/images/train
#   OUTPUT=./checkpoints/llava-vicuna-13b-v1.3-pretrain_lcs558k_plain-ScienceQA_QCM_LEA-12e
#   BATCH_SIZE=16  EPOCHS=12  LEARNING_RATE=2e-5  SAVE_STEPS=50000  DEEPSPEED=./scripts/zero2.json

set -euo pipefail
# shellcheck source=scripts/lib/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/launch.sh"

: "${PROMPT_VERSION=v1}"
: "${MODEL=lmsys/vicuna-13b-v1.3}"
: "${VERSION=$PROMPT_VERSION}"
: "${VISION_TOWER=openai/clip-vit-large-patch14}"
: "${ADAPTER=./checkpoints/huggingface/liuhaotian/llava-pretrain-vicuna-13b-v1.3/mm_projector.bin}"
: "${DATA=/Data/ScienceQA/data/scienceqa/llava_train_QCM-LEA.json}"
: "${IMAGE_FOLDER=/Data/ScienceQA/data/scienceqa/images/train}"
: "${OUTPUT=./checkpoints/llava-vicuna-13b-v1.3-pretrain_lcs558k_plain-ScienceQA_QCM_LEA-12e}"
: "${BATCH_SIZE=16}"
: "${EPOCHS=12}"
: "${LEARNING_RATE=2e-5}"
: "${SAVE_STEPS=50000}"
: "${DEEPSPEED=./scripts/zero2.json}"

launch "$@"
