# Prometheus from Debian, for machines that reach no container registry: stands in for prom/prometheus in the test.
ARG BASE
FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends prometheus wget && rm -rf /var/lib/apt/lists/* \
 && install -d -o 65534 /prometheus
USER 65534
ENTRYPOINT ["/usr/bin/prometheus"]
