#!/usr/bin/env bash
# Stage 2 with CCRA, the paper's recipe (its Table 5, right column): language model and CCRA projector, 665K mix,
# 128 samples per update, AdamW, cosine from 1e-5 after 3% warm-up, one epoch, ZeRO-2, bf16.
# It starts from LLaVA's own stage-1 adapter: the widened projector equals LLaVA's at step 0.
#
#   bash scripts/v1_5/finetune_ccra.sh                                # 7B; any number of GPUs that divides 128 / 16
#   PROJECTOR=mlp2x_gelu bash scripts/v1_5/finetune_ccra.sh           # the same recipe with LLaVA's projector
#   PROJECTOR=mmfuser bash scripts/v1_5/finetune_ccra.sh              # or with another method's
#   LAUNCHER=python NUM_PROCESSES=1 BATCH_SIZE=4 DATA=small.json bash scripts/v1_5/finetune_ccra.sh --max_steps 10
#
# Defaults:
#   MODEL=lmsys/vicuna-7b-v1.5  VERSION=v1  VISION_TOWER=openai/clip-vit-large-patch14-336  PROJECTOR=ccra
#   ADAPTER=./checkpoints/llava-v1.5-7b-pretrain/mm_projector.bin
#   DATA=./playground/data/llava_v1_5_mix665k.json  IMAGE_FOLDER=./playground/data
#   OUTPUT=./checkpoints/llava-v1.5-7b-$PROJECTOR  IMAGE_ASPECT_RATIO=pad  REPORT_TO=tensorboard
#   GLOBAL_BATCH=128  BATCH_SIZE=16  EPOCHS=1  LEARNING_RATE=1e-5  SAVE_STEPS=50000  DEEPSPEED=./scripts/zero2.json
#   MM_CCRA_HIDDEN_DIM=128     width h of the three attentions
#   MM_CCRA_KERNEL_SIZE=5      taps of the Gaussian over the layer weights; 1 switches the smoothing off
#   MM_CCRA_SIGMA=1.0          width of that Gaussian, in layers
#   MM_CCRA_NORM_ORDER=pre     pre: normalise, then modulate; post: the order of the paper's equations 5 and 13
#   MM_CCRA_QUERY=human        question tokens that steer the fusion: human (all turns), first or last human turn
#   MM_CCRA_INTEGRATION=pai    the order of the steps: pai, decoupled or shuffled
#   MM_CCRA_DISABLE=           steps to leave out, such as "lpwca pwca"
#   MM_CCRA_DEPTH_GROUPS=1     mixtures of layers kept side by side; above 1 goes beyond the paper
#   MM_CCRA_NORMALIZE=         what to bring to one size first: "query", "keys" or both; goes beyond the paper
#   MM_CCRA_GROUNDING=0.0      weight of a loss that makes maps follow the question, such as 0.1; goes beyond the paper
#   MM_CCRA_LAYERS=            hidden states to read, such as "3 8 13 18 23"; empty: every block

set -euo pipefail
# shellcheck source=scripts/lib/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib/launch.sh"

: "${MODEL=lmsys/vicuna-7b-v1.5}"
: "${VERSION=v1}"
: "${VISION_TOWER=openai/clip-vit-large-patch14-336}"
: "${PROJECTOR=ccra}"
: "${MM_CCRA_HIDDEN_DIM=128}"
: "${MM_CCRA_KERNEL_SIZE=5}"
: "${MM_CCRA_SIGMA=1.0}"
: "${MM_CCRA_NORM_ORDER=pre}"
: "${MM_CCRA_QUERY=human}"
: "${MM_CCRA_INTEGRATION=pai}"
: "${MM_CCRA_DEPTH_GROUPS=1}"
: "${MM_CCRA_GROUNDING=0.0}"
: "${ADAPTER=./checkpoints/llava-v1.5-7b-pretrain/mm_projector.bin}"
: "${DATA=./playground/data/llava_v1_5_mix665k.json}"
: "${IMAGE_FOLDER=./playground/data}"
: "${OUTPUT=./checkpoints/llava-v1.5-7b-$PROJECTOR}"
: "${IMAGE_ASPECT_RATIO=pad}"
: "${GLOBAL_BATCH=128}"
: "${BATCH_SIZE=16}"
: "${LEARNING_RATE=1e-5}"
: "${SAVE_STEPS=50000}"
: "${DEEPSPEED=./scripts/zero2.json}"
: "${REPORT_TO=tensorboard}"
GROUP_BY_MODALITY_LENGTH=True

launch "$@"
