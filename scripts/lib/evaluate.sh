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
#   RESUME                1 keeps the answers that a killed run has written, and goes on [0]
#
# Relative paths start at the repository's root. Without an activated environment, .venv (`make setup`) is used.
# What stands on the script's command line goes to the driver, for example --temperature 0.2.

EVAL_SCRIPT=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
EVAL_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$EVAL_ROOT" || exit

if [[ -z ${VIRTUAL_ENV-} && ${CONDA_DEFAULT_ENV-base} == base && -x .venv/bin/python ]]; then
    export PATH="$EVAL_ROOT/.venv/bin:$PATH"
fi
export PYTHONPATH="$EVAL_ROOT${PYTHONPATH:+:$PYTHONPATH}"

: "${CKPT:=liuhaotian/llava-v1.5-13b}"
: "${NAME:=$(basename "$CKPT")}"
: "${CONV_MODE:=vicuna_v1}"
: "${BATCH_SIZE:=1}"

case ${1-} in
    -h | --help)
        for file in "$EVAL_SCRIPT" scripts/lib/evaluate.sh; do
            # the first comment block, without the lines for bash and for shellcheck
            sed -n -e '/^#!/d' -e '/^# shellcheck/d' -e '/^#/!q' -e 's/^# \{0,1\}//p' "$file"
            echo
        done
        exit 0
        ;;
esac

fail() { # fail CODE MESSAGE
    echo "error: ${*:2}" >&2
    exit "$1"
}

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
    ((missing == 0)) || fail 2 "DATA=$folder (from $EVAL_ROOT) lacks $missing of what is needed; it must hold:$tree"
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

# answer_questions QUESTIONS ANSWERS DRIVER [FLAG]...: has the driver answer the questions, one chunk per GPU at the same
# time, and joins the chunks to ANSWERS/merge.jsonl. The first chunk that fails ends the script, and the other chunks.
answer_questions() {
    local questions=$1 answers=$2 gpus=() index status
    local command=(python -m "$3" --model-path "$CKPT" --question-file "$questions" --conv-mode "$CONV_MODE"
        --batch-size "$BATCH_SIZE" --temperature 0)
    [[ -z ${MODEL_BASE-} ]] || command+=(--model-base "$MODEL_BASE")
    [[ -z ${WORKERS-} ]] || command+=(--workers "$WORKERS")
    [[ ${RESUME:-0} == 0 ]] || command+=(--resume)
    command+=("${@:4}")

    IFS=, read -r -a gpus <<<"${CUDA_VISIBLE_DEVICES-0}"
    ((${#gpus[@]})) || gpus=("") # no GPU in sight: one process on the CPU
    rm -f "$answers/merge.jsonl"
    for ((index = 0; index < ${#gpus[@]}; index++)); do
        CUDA_VISIBLE_DEVICES=${gpus[index]} "${command[@]}" --num-chunks "${#gpus[@]}" --chunk-idx "$index" \
            --answers-file "$answers/${#gpus[@]}_$index.jsonl" &
        chunk_pids[index]=$!
    done
    while ((${#chunk_pids[@]})); do
        for index in "${!chunk_pids[@]}"; do
            if ! kill -0 "${chunk_pids[index]}" 2>/dev/null; then
                status=0
                wait "${chunk_pids[index]}" || status=$?
                unset "chunk_pids[index]"
                ((status == 0)) || fail "$status" "chunk $index of ${#gpus[@]} failed (exit code $status, its message is above);" \
                    "nothing was merged. RESUME=1 goes on from the answers in $answers"
            fi
        done
        sleep 0.2
    done
    python -m llava.eval.merge --question-file "$questions" --answers-dir "$answers" --num-chunks "${#gpus[@]}" \
        --answers-file "$answers/merge.jsonl"
}
