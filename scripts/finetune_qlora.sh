#!/usr/bin/env bash
# Stage 2 of the first LLaVA: LoRA on a language model held in 4 bits (needs bitsandbytes), 80K
# instructions.
#
#   MODEL_VERSION=vicuna-v1-3-7b IMAGE_FOLDER=coco/train2017 bash scripts/finetune_qlora.sh
#   MODEL_VERSION=llama-2-7b-chat PROMPT_VERSION=llava_llama_2 IMAGE_FOLDER=coco/train2017 bash scripts/finetune_qlora.sh
#
# Defaults, LLaVA's own:
#   MODEL_VERSION=vicuna-v1-3-7b   part of the paths below
#   PROMPT_VERSION=v1              v1, or llava_llama_2 for a Llama-2 model
#   MODEL=./checkpoints/$MODEL_VERSION  VERSION=$PROMPT_VERSION  VISION_TOWER=openai/clip-vit-large-patch14
#   LORA_ENABLE=True (rank 64 and alpha 16 unless LORA_R and LORA_ALPHA say otherwise)  BITS=4
#   ADAPTER=./checkpoints/llava-$MODEL_VERSION-pretrain/mm_projector.bin
#   DATA=./playground/data/llava_instruct_80k.json  IMAGE_FOLDER=/path/to/coco/train2017
#   OUTPUT=./checkpoints/llava-$MODEL_VERSION-finetune_lora
#   BATCH_SIZE=16  EPOCHS=1  LEARNING_RATE=2e-5  SAVE_STEPS=50000  DEEPSPEED=./scripts/zero2.json

set -euo pipefail
# shellcheck source=scripts/lib/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/launch.sh"

: "${MODEL_VERSION=vicuna-v1-3-7b}"
: "${PROMPT_VERSION=v1}"
: "${MODEL=./checkpoints/$MODEL_VERSION}"
: "${VERSION=$PROMPT_VERSION}"
: "${VISION_TOWER=openai/clip-vit-large-patch14}"
: "${LORA_ENABLE=True}"
: "${BITS=4}"
: "${ADAPTER=./checkpoints/llava-$MODEL_VERSION-pretrain/mm_projector.bin}"
: "${DATA=./playground/data/llava_instruct_80k.json}"
: "${IMAGE_FOLDER=/path/to/coco/train2017}"
: "${OUTPUT=./checkpoints/llava-$MODEL_VERSION-finetune_lora}"
: "${BATCH_SIZE=16}"
: "${LEARNING_RATE=2e-5}"
: "${SAVE_STEPS=50000}"
: "${DEEPSPEED=./scripts/zero2.json}"

launch "$@"
