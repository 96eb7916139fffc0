#!/usr/bin/env bash
# Q-Bench in Chinese: qbench.sh with ASK_IN=zh; its variables and flags are this one's.
#
#   CKPT=./checkpoints/llava-v1.5-7b-ccra bash scripts/v1_5/eval/qbench_zh.sh dev

set -euo pipefail
# shellcheck source=scripts/lib/evaluate.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../lib/evaluate.sh"

ASK_IN=zh bash scripts/v1_5/eval/qbench.sh "$@"
