# shellcheck shell=bash
# Variables of every evaluation script:
#
#   CKPT                  checkpoint: a folder or a hub name [liuhaotian/llava-v1.5-13b]
#   MODEL_BASE            what CKPT was trained on, for LoRA and projector-only checkpoints
#   NAME                  how the answers folder calls the checkpoint [last part of CKPT]
#   CONV_MODE             conversation template [vicuna_v1]
#   BATCH_SIZE            questions answered at once [1]
#   WORKERS               processes that read pictures ahead, per GPU [4, or fewer if there are fewer cores]
#   CUDA_VISIBLE_DEVICES  GPUs; each answers one chunk of the questions in a process of its own [0]
#   EVAL_DATA             folder of all benchmarks; DATA is in it unless it is set [./playground/data/eval]
#   MM_ATTANCHOR_*        AttAnchor's settings, over those that the checkpoint was trained with, as in training:
#                         MM_ATTANCHOR_DIRECTION=text_into_image MM_ATTANCHOR_TAU=0.12
#   RESUME                1 keeps the answers that a killed run has written, and goes on [0]
#   PUBLISHED             0 leaves out the last line, the papers' rows beside the score [1]
#
# Relative paths start at the repository's root. Without an activated environment, .venv (`make setup`) is used.
# What stands on the script's command line goes to the driver, for example --temperature 0.2.

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${CKPT:=liuhaotian/llava-v1.5-13b}"
: "${NAME:=$(basename "$CKPT")}"
: "${CONV_MODE:=vicuna_v1}"
: "${BATCH_SIZE:=1}"
: "${EVAL_DATA:=./playground/data/eval}"

case ${1-} in
    -h | --help)
        show_help scripts/lib/evaluate.sh
        exit 0
        ;;
esac

arguments=() # of every program that loads the checkpoint
setting_flags MM_ATTANCHOR_

require_tree() { # require_tree FOLDER [PATH NOTE]...: all of it must be there; if not, shows the tree with what is missing
    local folder=$1 missing=0 tree="" path mark
    shift
    while (($#)); do
        path=$1 mark="        "
        if [[ ! -e $folder/$path ]]; then
            missing=$((missing + 1)) mark="missing "
        fi
        tree+=$(printf '\n  %s%-44s %s' "$mark" "$path" "$2")
        shift 2
    done
    ((missing == 0)) || fail 2 "DATA=$folder (from $ROOT) lacks $missing of what is needed; it must hold:$tree"
}

require_images() { # require_images NOTE: the folder IMAGES must be there
    [[ -d $IMAGES ]] || fail 2 "IMAGES=$IMAGES: no such folder (looked in $ROOT); set it to the folder of $1"
}

existing_folder() { # existing_folder FOLDER...: the first that is there, else the first
    local folder
    for folder in "$@"; do
        if [[ -d $folder ]]; then
            echo "$folder"
            return
        fi
    done
    echo "$1"
}

has_judge() { # is there a judge? (llava/eval/judge.py)
    [[ -n ${OPENAI_API_KEY-} ]]
}

chunk_pids=()
stop_chunks() {
    local pid
    for pid in ${chunk_pids[@]+"${chunk_pids[@]}"}; do
        kill "$pid" 2>/dev/null || true
    done
    wait
}
trap stop_chunks EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# answer_questions QUESTIONS CHUNKS ANSWERS DRIVER [FLAG]...: has the driver answer the questions, one chunk per GPU at
# the same time into the folder CHUNKS, and joins them to the file ANSWERS. The first chunk that fails ends the script,
# and the other chunks.
answer_questions() {
    local questions=$1 chunks=$2 answers=$3 gpus=() index status
    local command=(python -m "$4" --model-path "$CKPT" --question-file "$questions"
        --conv-mode "$CONV_MODE" --batch-size "$BATCH_SIZE" --temperature 0)
    [[ -z ${MODEL_BASE-} ]] || command+=(--model-base "$MODEL_BASE")
    [[ -z ${WORKERS-} ]] || command+=(--workers "$WORKERS")
    [[ ${RESUME:-0} == 0 ]] || command+=(--resume)
    command+=(${arguments[@]+"${arguments[@]}"} "${@:5}")

    IFS=, read -r -a gpus <<<"${CUDA_VISIBLE_DEVICES-0}"
    ((${#gpus[@]})) || gpus=("") # no GPU in sight: one process on the CPU
    rm -f "$answers"
    for ((index = 0; index < ${#gpus[@]}; index++)); do
        CUDA_VISIBLE_DEVICES=${gpus[index]} "${command[@]}" --num-chunks "${#gpus[@]}" --chunk-idx "$index" \
            --answers-file "$chunks/${#gpus[@]}_$index.jsonl" &
        chunk_pids[index]=$!
    done
    while ((${#chunk_pids[@]})); do
        for index in "${!chunk_pids[@]}"; do
            if ! kill -0 "${chunk_pids[index]}" 2>/dev/null; then
                status=0
                wait "${chunk_pids[index]}" || status=$?
                unset "chunk_pids[index]"
                ((status == 0)) || fail "$status" "chunk $index of ${#gpus[@]} failed (exit code $status, its message is above);" \
                    "nothing was merged. RESUME=1 goes on from the answers in $chunks"
            fi
        done
        sleep 0.2
    done
    python -m llava.eval.merge --question-file "$questions" --answers-dir "$chunks" --num-chunks "${#gpus[@]}" \
        --answers-file "$answers"
}

# show_result BENCHMARK ANSWERS METRIC [REASON]: one line with the score that ANSWERS got by METRIC, or the reason why it
# has none here, beside the papers' rows.
show_result() {
    [[ ${PUBLISHED:-1} != 0 ]] || return 0
    python -m llava.eval.published "$1" --answers "$2" --metric "$3" ${4+--absent "$4"} | tee -a "${RESULT_LINES:-/dev/null}"
}
