# The same with GPUs and vLLM: docker build -f docker/cuda.Dockerfile -t tpo-dist:cuda . Wants the NVIDIA container toolkit.
ARG BASE=nvidia/cuda:13.0.1-base-ubuntu24.04

# hadolint ignore=DL3006
FROM ${BASE} AS build
# What to install beside the base, and where wheels of your own come from.
ARG EXTRAS="[vllm]"
ARG FIND_LINKS=""
WORKDIR /build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/tpo-dist
# Dependencies first, in a layer that lasts while only the program changes. PyPI's torch brings its CUDA libraries.
COPY pyproject.toml constraints-cpu.txt ./
COPY tpo_dist/__init__.py tpo_dist/
RUN touch README.md LICENSE \
 && /opt/tpo-dist/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints-cpu.txt \
    ${FIND_LINKS:+--find-links "$FIND_LINKS"} ".${EXTRAS}"
COPY tpo_dist tpo_dist/
RUN /opt/tpo-dist/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --force-reinstall .

# hadolint ignore=DL3006
FROM ${BASE}
# Triton compiles its kernels where they run.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-dev gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home tpo && install -d -o tpo -g tpo /runs
COPY --from=build /opt/tpo-dist /opt/tpo-dist
COPY clusters/entry /clusters/entry/
COPY jobs /jobs/
ENV PATH=/opt/tpo-dist/bin:$PATH PYTHONUNBUFFERED=1 TPO_DIST_RUNS=/runs
USER 10001
WORKDIR /home/tpo
# Of a node; a head asks for `healthy.sh head`.
HEALTHCHECK --interval=10s --timeout=8s --start-period=90s --retries=6 CMD ["/clusters/entry/healthy.sh", "worker"]
CMD ["tpo-dist", "--help"]
