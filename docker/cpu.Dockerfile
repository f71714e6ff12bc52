# Head, nodes, jobs and TensorBoard of a cluster without GPUs: docker build -f docker/cpu.Dockerfile -t tpo-dist:cpu .
ARG BASE=python:3.11-slim-bookworm

# hadolint ignore=DL3006
FROM ${BASE} AS build
# What else to install, such as [llm] or [llm,wandb]; where torch for CPUs comes from, and wheels of your own.
ARG EXTRAS=""
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG FIND_LINKS=""
WORKDIR /build
RUN python3 -m venv /opt/tpo-dist
# Dependencies first, in a layer that lasts while only the program changes.
COPY pyproject.toml constraints-cpu.txt ./
COPY tpo_dist/__init__.py tpo_dist/
RUN touch README.md LICENSE \
 && /opt/tpo-dist/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints-cpu.txt \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ${FIND_LINKS:+--find-links "$FIND_LINKS"} ".${EXTRAS}"
COPY tpo_dist tpo_dist/
RUN /opt/tpo-dist/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --force-reinstall .

# hadolint ignore=DL3006
FROM ${BASE}
RUN useradd --uid 10001 --create-home tpo && install -d -o tpo -g tpo /runs
COPY --from=build /opt/tpo-dist /opt/tpo-dist
COPY clusters/entry /clusters/entry/
COPY jobs /jobs/
ENV PATH=/opt/tpo-dist/bin:$PATH PYTHONUNBUFFERED=1 TPO_DIST_RUNS=/runs
USER 10001
WORKDIR /home/tpo
# Of a node; a head asks for `healthy.sh head`.
HEALTHCHECK --interval=10s --timeout=8s --start-period=90s --retries=6 CMD ["/clusters/entry/healthy.sh", "worker"]
CMD ["tpo-dist", "--help"]
