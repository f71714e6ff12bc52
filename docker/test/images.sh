#!/usr/bin/env bash
# The images of the test: the CPU image, and Prometheus and Grafana where a registry can be reached. Prints, as settings of
# docker/.env, which they are. Where no registry can be, the base comes from a Debian mirror, Prometheus from Debian, and
# there is no Grafana. WHEELS: a folder of wheels, such as torch for CPUs.
set -euo pipefail
cd "$(dirname "$0")/../.."
export DOCKER_BUILDKIT=0
base=python:3.11-slim-bookworm prometheus=prom/prometheus:v3.5.0 grafana=grafana/grafana:12.1.1
reachable() { docker image inspect "$1" >/dev/null 2>&1 || timeout 300 docker pull -q "$1" >/dev/null 2>&1; }
if ! reachable "$base"; then
  base=tpo-dist-test-base
  docker image inspect "$base" >/dev/null 2>&1 ||
    docker/test/make_base.sh "$base" bookworm python3 python3-venv python3-pip ca-certificates
fi
if ! reachable "$prometheus"; then
  prometheus=tpo-dist-test-prometheus
  docker build -q --network host -t "$prometheus" --build-arg BASE="$base" - <docker/test/prometheus.Dockerfile >/dev/null
fi
reachable "$grafana" || grafana=
arguments=()
if [[ -n "${WHEELS:-}" ]]; then
  python3 -m http.server --directory "$WHEELS" --bind 127.0.0.1 18473 >/dev/null 2>&1 &
  server=$!
  trap 'kill "$server"' EXIT
  arguments+=(--build-arg FIND_LINKS=http://127.0.0.1:18473/ --build-arg TORCH_INDEX=)
fi
docker build -q --network host -f docker/cpu.Dockerfile -t tpo-dist:test --build-arg BASE="$base" "${arguments[@]}" . >/dev/null
printf 'TPO_IMAGE=tpo-dist:test\nTPO_PROMETHEUS_IMAGE=%s\nTPO_GRAFANA_IMAGE=%s\n' "$prometheus" "$grafana"
