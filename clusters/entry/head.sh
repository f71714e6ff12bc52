#!/usr/bin/env bash
# A Ray head in the foreground: the cluster's state, its dashboard and its job server. Ends on SIGTERM.
#
#   RAY_AUTH_TOKEN=… clusters/entry/head.sh [further arguments of `ray start`]
#
# Beside what settings.sh lists:
#   TPO_PORT             where other nodes join: 6379
#   TPO_DASHBOARD_HOST   address of dashboard and job server: 127.0.0.1, so reachable from this machine only
#   TPO_DASHBOARD_PORT   8265
#   TPO_CLIENT_PORT      of Ray Client, which nothing here uses: 10001
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
gather_arguments
exec "$TPO_RAY" start --head \
  --port "${TPO_PORT:-6379}" \
  --dashboard-host "${TPO_DASHBOARD_HOST:-127.0.0.1}" \
  --dashboard-port "${TPO_DASHBOARD_PORT:-8265}" \
  --ray-client-server-port "${TPO_CLIENT_PORT:-10001}" \
  "${common[@]}" "$@"
