#!/usr/bin/env bash
# Whether a node is well, for health checks and for waiting: exit code 0 or 1. Asks over HTTP and starts no Python.
#
#   clusters/entry/healthy.sh head      the job server answers and the cluster's state behind it
#   clusters/entry/healthy.sh worker    this node, seen by its agent
#
# With TPO_DASHBOARD_HOST, TPO_DASHBOARD_PORT and TPO_AGENT_PORT as for head.sh and worker.sh. Needs no token.
set -euo pipefail
case "${1:-}" in
  head) host="${TPO_DASHBOARD_HOST:-127.0.0.1}" port="${TPO_DASHBOARD_PORT:-8265}" path=/api/gcs_healthz ;;
  worker) host=127.0.0.1 port="${TPO_AGENT_PORT:-52365}" path=/api/local_raylet_healthz ;;
  *)
    echo "usage: healthy.sh head|worker" >&2
    exit 2
    ;;
esac
if [[ "$host" == 0.0.0.0 ]]; then host=127.0.0.1; fi
exec 2>/dev/null 3<>"/dev/tcp/$host/$port" || exit 1
printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$path" "$host" >&3
read -r -t 5 answer <&3 || exit 1
[[ "$answer" == *" 200 "* ]]
