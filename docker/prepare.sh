#!/usr/bin/env bash
# Once, before `docker compose`: docker/.env with a token for the cluster and a password for Grafana, readable by you alone.
set -euo pipefail
cd "$(dirname "$0")"
if [[ -e .env ]]; then
  echo "docker/.env is there already; it stays as it is" >&2
  exit 0
fi
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
umask 077
cat >.env <<END
COMPOSE_PROJECT_NAME=tpo-dist
RAY_AUTH_TOKEN=$(random)
GRAFANA_PASSWORD=$(random)
END
echo "wrote docker/.env: the cluster's token, and the password of Grafana's user admin"
