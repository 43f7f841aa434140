# shellcheck shell=bash
# Sourced by the launchers: `run_module`, and PYTHON, an interpreter that has disttrain. Yours if you set it, else the one on
# the PATH, else the one that `make setup` made.
if [ -z "${PYTHON:-}" ]; then
    made="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin/python"
    has='import importlib.util as u, sys; sys.exit(not (u.find_spec("torch") and u.find_spec("disttrain")))'
    if python3 -c "$has" 2>/dev/null; then
        PYTHON=python3
    elif [ -x "$made" ]; then
        PYTHON=$made
    else
        echo "disttrain: error: python3 on the PATH has no torch and disttrain, and there is no .venv. Run make setup," \
            "activate your environment, or set PYTHON." >&2
        exit 2
    fi
fi

# Run a module of disttrain in the place of this shell: `python -m` would look for it, and for all that it imports, in the
# working directory first, which is the user's.
run_module() {
    local script
    script="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/disttrain/system/entry/run_module.py"
    if [ -f "$script" ]; then
        exec "$PYTHON" "$script" "$@"
    fi
    exec "$PYTHON" -m "$@"
}
