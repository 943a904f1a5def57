#!/usr/bin/env bash
# Makes .venv from requirements.lock and caches Delta's jars; a second call finds its stamp and does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
stamp=$venv/loopfm.stamp

state() { # what the environment was made from
    cat requirements.lock pyproject.toml scripts/setup.sh | sha256sum | cut -d ' ' -f 1
    "$venv/bin/python" -c 'import sys; print(sys.version)' 2>/dev/null || echo none
    pwd -P
}

[[ -f $stamp && $(state) == "$(cat "$stamp")" ]] && exit 0

scripts/system.sh
JAVA_HOME=$(scripts/system.sh --java)
export JAVA_HOME
python=$(scripts/system.sh --python)
minor() { "$1" -c 'import sys; print(sys.version_info[1])' 2>/dev/null || echo none; }
echo "Setting up $venv with $("$python" --version): about 7 GB, a few minutes the first time" >&2
rm -f "$stamp"
if [[ $(minor "$venv/bin/python") == "$(minor "$python")" ]]; then
    "$python" -m venv "$venv"
else
    "$python" -m venv --clear "$venv"
fi

pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
if "${pip[@]}" install uv 2>/dev/null; then
    uv=("$venv/bin/uv" pip)
    # Compiled here once: where Python is told to write no bytecode, as in many images, each process compiled it anew.
    "${uv[@]}" sync --quiet --compile-bytecode --python "$venv/bin/python" requirements.lock
    "${uv[@]}" install --quiet --python "$venv/bin/python" --no-deps --editable .
else
    "${pip[@]}" install --require-hashes -r requirements.lock
    "${pip[@]}" install --no-deps --editable .
fi
"$venv/bin/python" -m feature_store.jars >/dev/null
rm -f "$venv"/spark-classes-*.jsa
"$venv/bin/python" -m feature_store.class_archive >/dev/null
state >"$stamp"
