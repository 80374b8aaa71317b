#!/usr/bin/env bash
# Makes the passwords of compose.yaml, once; what is there is kept.
set -euo pipefail
dir="$(dirname "$0")/secrets"
umask 077
mkdir -p "$dir"
random() { head -c 24 /dev/urandom | base64 | tr -d '/+=\n'; }
if [ ! -e "$dir/redis-password" ]; then
  random >"$dir/redis-password"
  chmod 0444 "$dir/redis-password" # read by users 999 and 65532 in the containers
fi
if [ ! -e "$dir/s3.env" ]; then
  access="pratique-$(head -c 4 /dev/urandom | od -An -tx1 | tr -d ' \n')" secret="$(random)"
  cat >"$dir/s3.env" <<END
AWS_ACCESS_KEY_ID=$access
AWS_SECRET_ACCESS_KEY=$secret
ROOT_ACCESS_KEY=$access
ROOT_SECRET_KEY=$secret
END
fi
