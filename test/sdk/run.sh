#!/bin/sh
# Fetches SDKs and agents from npm and PyPI, each in a package of its own, and runs them unchanged against the built proxy.
#   test/sdk/run.sh [word …]    only the suites whose name has one of these words
# PYTHON=python3.12 names another Python; AGENTS=0 leaves Codex, opencode and Claude Code out (1.2 GB).
set -eu
here=$(dirname "$0")

fetch_npm() {
  if [ ! -e "$1/node_modules/.package-lock.json" ] || [ "$1/package-lock.json" -nt "$1/node_modules/.package-lock.json" ]; then
    (cd "$1" && npm ci --ignore-scripts --no-audit --no-fund)
  fi
}

fetch_python() {
  if [ ! -e "$1/.venv/done" ] || [ "$1/requirements.txt" -nt "$1/.venv/done" ]; then
    "$python" -m venv "$1/.venv"
    "$1/.venv/bin/pip" install --quiet --disable-pip-version-check -r "$1/requirements.txt"
    touch "$1/.venv/done"
  fi
}

fetch_npm "$here"
if [ "${AGENTS:-1}" != 0 ]; then fetch_npm "$here/agents"; fi
python=${PYTHON:-python3}
if command -v "$python" >/dev/null 2>&1; then
  fetch_python "$here"
  # They want other versions of openai.
  fetch_python "$here/instructor"
  fetch_python "$here/frameworks"
fi
node "$here/main.mjs" "$@"
