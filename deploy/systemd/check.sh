#!/bin/sh
# `make service-check`: what systemd-analyze says of the unit; needs no running systemd. Says plainly what did not run.
set -eu
cd "$(dirname "$0")"
unit=azure-openai-proxy.service

if ! command -v systemd-analyze >/dev/null; then
  echo "service-check: NOT RUN: there is no systemd-analyze here"
  exit 0
fi

# It looks for the executable, which need not be installed here. What the unit offers as a comment is examined, too.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sed -e 's#^ExecStart=/usr/bin/azure-openai-proxy#ExecStart=/bin/true#' -e 's/^#LoadCredential=/LoadCredential=/' "$unit" > "$work/$unit"

# It ends with 0 for unknown options too: what it says counts.
said=$(systemd-analyze verify "$work/$unit" 2>&1) || { echo "$said"; exit 1; }
if [ -n "$said" ]; then
  echo "$said"
  exit 1
fi
echo "service-check: systemd-analyze verify: ok"
# 2.0 of 10 is the end of what systemd calls OK.
systemd-analyze security --offline=yes --threshold=20 "$work/$unit" | tail -1
