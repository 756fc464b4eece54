#!/bin/sh
# Runs the browser tests, or says why not. CHROMIUM=FILE names a browser, SCREENSHOTS=FOLDER where the pictures go.
set -eu
cd "$(dirname "$0")"
if [ -z "${CHROMIUM:-}" ] && ! command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null 2>&1; then
  echo 'browser tests: SKIPPED, no browser found (install the package "chromium", or name one with CHROMIUM=FILE)'
  exit 0
fi
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  npm ci --ignore-scripts --no-audit --no-fund
fi
exec node --test dashboard.test.mjs
