# shellcheck shell=bash
# For every script that a user starts: the repository's root as working folder, the environment, help, errors, flags.

SCRIPT=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$ROOT" || exit

if [[ -z ${VIRTUAL_ENV-} && ${CONDA_DEFAULT_ENV-base} == base && -x .venv/bin/python ]]; then
    export PATH="$ROOT/.venv/bin:$PATH"
fi
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" # also where only the dependencies were installed

fail() { # fail CODE MESSAGE...
    echo "error: ${*:2}" >&2
    exit "$1"
}

show_help() { # show_help FILE...: the comment blocks at the top of the running script and of the files it shares
    local file
    for file in "$SCRIPT" "$@"; do
        # without the lines for bash and for shellcheck
        sed -n -e '/^#!/d' -e '/^# shellcheck/d' -e '/^#/!q' -e 's/^# \{0,1\}//p' "$file"
        echo
    done
}

list_flag() { # list_flag NAME VALUES: a flag for the list "arguments", one value per word; none without a value
    local values
    read -r -a values <<<"$2"
    if ((${#values[@]})); then
        arguments+=("$1" "${values[@]}")
    fi
}

setting_flags() { # setting_flags PREFIX: a flag for each variable that begins with it
    local name
    for name in $(compgen -A variable "$1"); do
        list_flag "--$(tr '[:upper:]' '[:lower:]' <<<"$name")" "${!name}"
    done
}
