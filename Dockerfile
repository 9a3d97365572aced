# syntax=docker/dockerfile:1
# The service alone: no embedded PostgreSQL, no embedded S3 server, no demo, no tests, no compiler.
# `make docker-check` runs these steps without Docker.
# By digest: where it is from and how it is moved on says docs/supply-chain.md.
ARG PYTHON_IMAGE=python:3.11.15-slim-bookworm@sha256:b18992999dbe963a45a8a4da40ac2b1975be1a776d939d098c647482bcad5cba

# ---- builder: a venv from the pinned requirements; wheels only, so nothing is compiled anywhere
FROM ${PYTHON_IMAGE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
COPY requirements.txt /tmp/requirements.txt
RUN /opt/venv/bin/pip install --require-hashes --only-binary=:all: -r /tmp/requirements.txt

# ---- the image. opencv-python-headless and PyAV bring their own libraries: nothing from apt is needed
# (`ldd` over the venv's 165 shared objects on a minimal Debian 12 found none missing).
FROM ${PYTHON_IMAGE} AS service
RUN groupadd --system --gid 10001 trackshift \
    && useradd --system --uid 10001 --gid trackshift --no-create-home --home-dir /data --shell /usr/sbin/nologin trackshift \
    && install -d -o trackshift -g trackshift -m 0750 /data
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    API__HOST=0.0.0.0 \
    API__PORT=8000 \
    DATA_DIR=/data
COPY --from=builder /opt/venv /opt/venv
COPY main.py config.py ./
COPY api api
COPY services services
COPY repositories repositories
COPY models models
COPY utils utils
RUN python -m compileall -q .

USER 10001:10001
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# /health/live: does this process answer. Not /health/ready: that is 503 while the database or the store is away, which
# no restart of this container mends, and a restart would break the captures that wait for them to come back.
# Load balancers should ask /health/ready.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['API__PORT'] + '/health/live', timeout=4)"]
CMD ["python", "main.py"]
