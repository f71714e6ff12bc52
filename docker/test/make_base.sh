#!/usr/bin/env bash
# A base image from a Debian mirror, for machines that reach no container registry: make_base.sh NAME SUITE PACKAGE…
# Needs root and debootstrap; about 80 seconds. PIP_CERT: certificates with which pip reaches its registry from here.
set -euo pipefail
name=$1 suite=$2
shift 2
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include="$(IFS=,; echo "$*")" "$suite" "$root" \
  "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >/dev/null
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
changes=()
if [ -n "${PIP_CERT:-}" ]; then
  cp "$PIP_CERT" "$root/etc/ssl/certs/ca-certificates.crt"
  changes=(--change "ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt")
fi
tar -C "$root" -c . | docker import "${changes[@]}" - "$name" >/dev/null
