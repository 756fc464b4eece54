#!/bin/sh
# Runs official SDKs against the built proxy: with a token provider, against the demo, against two resources of which one fails.
# PYTHON=python3.12 names another Python.
set -eu
here=$(dirname "$0")
if [ ! -e "$here/node_modules/.package-lock.json" ] || [ "$here/package-lock.json" -nt "$here/node_modules/.package-lock.json" ]; then
  (cd "$here" && npm ci --ignore-scripts --no-audit --no-fund)
fi
node "$here/stage.mjs" node --test "$here/token-provider.test.mjs"
for mode in demo faulty; do
  node "$here/suite-stage.mjs" "$mode" node --test "$here/suites.test.mjs"
done
python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null 2>&1; then
  echo 'sdk tests: Python SKIPPED, it is not installed'
  exit 0
fi
if [ ! -e "$here/.venv/bin/python" ]; then
  "$python" -m venv "$here/.venv"
  "$here/.venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
fi
node "$here/stage.mjs" "$here/.venv/bin/python" "$here/token_provider_test.py"
