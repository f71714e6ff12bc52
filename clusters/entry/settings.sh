#!/usr/bin/env bash
# What head.sh and worker.sh share; sourced by both. Every setting is an environment variable with a default here.
#
#   RAY_AUTH_TOKEN       the token that every node and user of the cluster shows; or RAY_AUTH_TOKEN_PATH, a file with it;
#                        neither: that of ~/.ray/auth_token, which Ray makes for clusters of one machine
#   RAY_AUTH_MODE        token; `disabled` runs without, and anyone who reaches a port runs code as this user
#   TPO_NODE_IP          address of this node, where it has several; the one that others reach
#   TPO_CPUS, TPO_GPUS   of this node; Ray's own count
#   TPO_OBJECT_STORE_MB  a third of the memory, Ray's own choice
#   TPO_ROLE             learner or rollout: one unit of a resource of that name, to be asked for with
#                        learner.resources.learner=0.001 and rollout.resources.rollout=0.001, and the label tpo-role
#   TPO_RESOURCES        further resources, as JSON; TPO_LABELS: further labels, as key=value,key=value
#   TPO_METRICS_PORT     where Prometheus reads: 8080
#   TPO_AGENT_PORT       of the node's agent, which reports health and starts jobs: 52365
#   TPO_WORKER_PORTS     of the processes that work, for firewalls, such as 10002-10999; free ones
#   TPO_TEMP_DIR         Ray's folder for sockets and logs: /tmp/ray. A short path: sockets are in it. Yours alone if made here
#   TPO_DIST_RUNS        folder for runs, under the same path on every node; jobs without a runs_dir of their own write there
#
# Arguments of a script go to `ray start`, behind these.
# Ray's own ports listen on every address of a node, so the token, and a network that strangers do not reach, guard them.
# Two nodes on one machine need ports and, where they belong to different clusters, a TPO_TEMP_DIR of their own.

die() {
  echo "error: $1" >&2
  exit 2
}

# Ray may be installed in an environment that is not active; jobs find it, and tpo-dist, on the path.
TPO_RAY="${TPO_RAY:-$(command -v ray || true)}"
[[ -x "$TPO_RAY" ]] || die "ray: not found. Fix: activate its environment, or set TPO_RAY to the program."
PATH="$(cd "$(dirname "$TPO_RAY")" && pwd):$PATH"
export PATH

export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
case "$RAY_AUTH_MODE" in
  token)
    if [[ -n "${RAY_AUTH_TOKEN:-}" ]]; then
      :
    elif [[ -n "${RAY_AUTH_TOKEN_PATH:-}" ]]; then
      [[ -s "$RAY_AUTH_TOKEN_PATH" ]] || die "RAY_AUTH_TOKEN_PATH = $RAY_AUTH_TOKEN_PATH: no token there. Fix: write one into it, with mode 600."
    elif [[ ! -s "${HOME:-/nonexistent}/.ray/auth_token" ]]; then
      die "RAY_AUTH_TOKEN: not set, and a cluster without a token obeys anyone. Fix: set it, or RAY_AUTH_TOKEN_PATH, as on the other nodes; or RAY_AUTH_MODE=disabled."
    else
      echo "the token is that of ~/.ray/auth_token; other nodes and users need the same" >&2
    fi
    ;;
  disabled) echo "warning: no token is asked for: whoever reaches this node's ports runs code on it" >&2 ;;
  *) die "RAY_AUTH_MODE = $RAY_AUTH_MODE: neither token nor disabled. Fix: leave it out." ;;
esac

# Ray's sockets and logs are in there, and what is in /tmp anyone may have put there before.
if [[ -n "${TPO_TEMP_DIR:-}" ]]; then
  (umask 077 && mkdir -p "$TPO_TEMP_DIR")
  [[ -O "$TPO_TEMP_DIR" && ! -L "$TPO_TEMP_DIR" ]] || die "TPO_TEMP_DIR = $TPO_TEMP_DIR: is a link, or belongs to somebody else. Fix: name another folder."
fi

# The arguments of `ray start` that head and other nodes have in common, in the array `common`.
gather_arguments() {
  local resources="${TPO_RESOURCES:-}" labels="${TPO_LABELS:-}" role="${TPO_ROLE:-}" ports="${TPO_WORKER_PORTS:-0-0}"
  resources="${resources#"{"}"
  resources="${resources%"}"}"
  case "$role" in
    "") ;;
    learner | rollout)
      resources="\"$role\": 1${resources:+, $resources}"
      labels="tpo-role=$role${labels:+,$labels}"
      ;;
    *) die "TPO_ROLE = $role: neither learner nor rollout. Fix: leave it out for a node that takes anything." ;;
  esac
  common=(
    --block
    --disable-usage-stats
    --metrics-export-port "${TPO_METRICS_PORT:-8080}"
    --dashboard-agent-listen-port "${TPO_AGENT_PORT:-52365}"
    --min-worker-port "${ports%-*}"
    --max-worker-port "${ports#*-}"
  )
  if [[ -n "${TPO_NODE_IP:-}" ]]; then common+=(--node-ip-address "$TPO_NODE_IP"); fi
  if [[ -n "${TPO_CPUS:-}" ]]; then common+=(--num-cpus "$TPO_CPUS"); fi
  if [[ -n "${TPO_GPUS:-}" ]]; then common+=(--num-gpus "$TPO_GPUS"); fi
  if [[ -n "${TPO_OBJECT_STORE_MB:-}" ]]; then common+=(--object-store-memory "$((TPO_OBJECT_STORE_MB * 1024 * 1024))"); fi
  if [[ -n "$resources" ]]; then common+=(--resources "{$resources}"); fi
  if [[ -n "$labels" ]]; then common+=(--labels "$labels"); fi
  if [[ -n "${TPO_TEMP_DIR:-}" ]]; then common+=(--temp-dir "$TPO_TEMP_DIR"); fi
}

# A node that is told to end waits this long for its work to leave; a learner or a rollout worker that dies with its
# node is replaced anyway, so waiting for idleness gains nothing.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="${RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S:-0}"
# Actors that ask for no GPU are left with what the environment says of them.
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="${RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO:-0}"
