#!/usr/bin/env bash
# A Ray node in the foreground that joins a head, for which it waits. Ends on SIGTERM.
#
#   RAY_AUTH_TOKEN=… TPO_HEAD=HOST:6379 TPO_ROLE=rollout clusters/entry/worker.sh [further arguments of `ray start`]
#
# Beside what settings.sh lists:
#   TPO_HEAD             HOST:PORT of the head
#   TPO_WAIT_SECONDS     how long to wait for it: 120
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
[[ "${TPO_HEAD:-}" =~ ^(.+):([0-9]+)$ ]] || die "TPO_HEAD = ${TPO_HEAD:-}: not of the form HOST:PORT. Fix: name the head's address and TPO_PORT."
host="${BASH_REMATCH[1]}" port="${BASH_REMATCH[2]}"
gather_arguments
until (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; do
  ((SECONDS < ${TPO_WAIT_SECONDS:-120})) || die "TPO_HEAD = $TPO_HEAD: nobody answered within ${TPO_WAIT_SECONDS:-120} s. Fix: start the head, or correct the address."
  sleep 0.5
done
exec "$TPO_RAY" start --address "$TPO_HEAD" "${common[@]}" "$@"
