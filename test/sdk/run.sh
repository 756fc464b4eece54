#!/bin/sh
# Fetches SDKs and agents from npm and PyPI, each in a package of its own, and runs them unchanged against the built proxy.
#   test/sdk/run.sh [word …]    only the suites whose name has one of these words
# PYTHON=python3.12 names another Python; AGENTS=0 leaves Codex, opencode and Claude Code out (1.2 GB).
set -eu
here=$(dirname "$0")

is_older() { [ ! -e "$2" ] || [ "$1" -nt "$2" ]; }

fetch_python() {
  if is_older "$1/requirements.txt" "$1/.venv/done"; then
    "$python" -m venv "$1/.venv"
    "$1/.venv/bin/pip" install --quiet --disable-pip-version-check -r "$1/requirements.txt"
    touch "$1/.venv/done"
  fi
}

if is_older "$here/package-lock.json" "$here/node_modules/.package-lock.json"; then
  (cd "$here" && npm ci --ignore-scripts --no-audit --no-fund)
fi
# Their programs are optional packages, one for each platform. A lock file misses those that were not to be had where it was made, and
# npm ci stops at that: the exact versions in package.json do.
agents="$here/agents"
if [ "${AGENTS:-1}" != 0 ] && is_older "$agents/package.json" "$agents/node_modules/.package-lock.json"; then
  (cd "$agents" && npm install --no-package-lock --ignore-scripts --no-audit --no-fund)
  touch "$agents/node_modules/.package-lock.json"
fi
python=${PYTHON:-python3}
if command -v "$python" >/dev/null 2>&1; then
  fetch_python "$here"
  # They want other versions of openai.
  fetch_python "$here/instructor"
  fetch_python "$here/frameworks"
fi
node "$here/main.mjs" "$@"
