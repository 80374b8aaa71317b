#!/usr/bin/env bash
# Installs the Debian packages behind the commands that the tests start. Says
# nothing when all are there. Usage: tools/apt.sh COMMAND=PACKAGE…
#
# A command that exists is never touched: on a machine with Docker's own
# packages, `apt-get install containerd` would remove them.
set -euo pipefail
PATH="$PATH:/usr/sbin:/sbin"

missing=() packages=()
for pair in "$@"; do
  if ! command -v "${pair%%=*}" >/dev/null; then
    missing+=("${pair%%=*}") packages+=("${pair#*=}")
  fi
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "tools: installing ${packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  if (apt-get update && apt-get install -y --no-install-recommends "${packages[@]}") >"$log" 2>&1; then
    rm -f "$log"
    exit 0
  fi
  tail -n 20 "$log" >&2
  echo "tools: could not install ${packages[*]} (whole log: $log)" >&2
else
  echo "tools: missing: ${missing[*]}. As root on Debian: apt-get install --no-install-recommends ${packages[*]}" >&2
fi
# Without them the tests that need them are skipped, with a message; in CI they
# fail, so fail here and say why.
[ "${CI:-}" != true ]
