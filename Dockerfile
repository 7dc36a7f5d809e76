# The image of crm-sync: a virtual environment on Debian's slim Python, and nothing that builds.
#
#   docker build --build-arg VERSION=0.1.0 --tag crm-sync:0.1.0 .
#
# At a release, pin the base by its digest too: --build-arg PYTHON=3.14-slim-trixie@sha256:…
ARG PYTHON=3.14-slim-trixie

FROM python:${PYTHON} AS builder
WORKDIR /build

# --without-pip: what is installed is the worker and what it needs, so no pip ends up in the image.
RUN python -m venv --without-pip /opt/crm-sync

# Wheels only: no package's own code runs here, and no compiler is needed. A lock is complete, so nothing
# is resolved (--no-deps): what is installed does not depend on what the index offers today.
COPY requirements.lock ./
RUN pip --python /opt/crm-sync/bin/python install --no-cache-dir --no-compile \
        --require-hashes --no-deps --only-binary :all: --requirement requirements.lock

# The build backend and what it needs, which stays in this stage.
COPY requirements-build.lock ./
RUN pip install --no-cache-dir --require-hashes --no-deps --only-binary :all: --requirement requirements-build.lock

COPY pyproject.toml README.md LICENSE ./
COPY worker ./worker
# The bytecode is never compared with its source: a builder may change files' times, an image's files
# don't change at all, and nothing could be written anyway.
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/crm-sync/bin/python install --no-cache-dir --no-compile --no-deps --no-index dist/*.whl \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/crm-sync/lib


FROM python:${PYTHON}

# The base image brings pip; whoever gets into a container should find nothing that installs.
RUN pip uninstall --yes pip

COPY --from=builder /opt/crm-sync /opt/crm-sync

ENV PATH=/opt/crm-sync/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1

# What changes with each build stands last, so that the layers above are used again.
ARG VERSION=unreleased
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="crm-sync" \
      org.opencontainers.image.description="Carries VICIdial's call and agent events from RabbitMQ to a CRM" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"

# A number, since Kubernetes' runAsNonRoot can't tell whether a name is root. No such user exists, and
# none needs to: nothing is written to disk, so the root file system may be read-only.
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM

# Kubernetes has probes of its own and ignores this. The worker's port 8080 can be another one.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('CRM_SYNC_HTTP__PORT') or 8080), timeout=4); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]

ENTRYPOINT ["crm-sync"]
CMD ["run"]
