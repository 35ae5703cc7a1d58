# Pin this by digest in your own builds. Both stages must use the same image: the environment holds its path.
ARG PYTHON_IMAGE=python:3.13-slim-bookworm


FROM ${PYTHON_IMAGE} AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /build

# The builder's pip and hatchling live beside the environment that ships, not in it.
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/aircall-oauth

# Two optional secrets, for networks with their own package index or certificate authority: docs/containers.md.
COPY requirements.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/run/secrets/ca_bundle \
    /opt/build/bin/pip --python /opt/aircall-oauth install --no-compile --require-hashes -r requirements.lock

# Bytecode is made here and never checked again: at run time nothing can be written, and no file changes. One file after
# the other and with one seed, so that two builds make the same.
ENV PYTHONHASHSEED=0
RUN /opt/aircall-oauth/bin/python -m compileall -q -f --invalidation-mode unchecked-hash /opt/aircall-oauth/lib

COPY requirements-dev.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca_bundle,target=/run/secrets/ca_bundle \
    awk '/^[a-z]/ { keep = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/ } keep' \
        requirements-dev.lock > build.lock \
    && /opt/build/bin/pip install --no-compile --require-hashes -r build.lock

COPY pyproject.toml README.md LICENSE ./
COPY alembic ./alembic
COPY src ./src
# Ours goes into a folder of its own, as it will lie in the environment: a layer of a few megabytes.
RUN rm -rf src/aircall_oauth/sandbox \
    && /opt/build/bin/pip wheel --no-deps --no-index --no-build-isolation --wheel-dir dist . \
    && /opt/build/bin/pip --python /opt/aircall-oauth install --no-compile --no-deps --no-index --no-warn-script-location \
        --root /opt/ours dist/*.whl \
    && /opt/aircall-oauth/bin/python -m compileall -q -f --invalidation-mode unchecked-hash -s /opt/ours -p / /opt/ours


FROM ${PYTHON_IMAGE}

# Written, not made by a program that would note the day.
RUN echo 'aircall-oauth:x:10001:' >> /etc/group \
    && echo 'aircall-oauth:x:10001:10001::/nonexistent:/usr/sbin/nologin' >> /etc/passwd

# What changes seldom comes first: an upgrade without new packages pulls the last layer only.
COPY --from=build /opt/aircall-oauth /opt/aircall-oauth
COPY --from=build /opt/ours/opt/aircall-oauth /opt/aircall-oauth

ENV PATH="/opt/aircall-oauth/bin:${PATH}" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

WORKDIR /
USER 10001:10001
EXPOSE 8000 8300 9090

# For Docker and Compose only; Kubernetes has its own probes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-I", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8000, timeout=3); c.request('GET', '/livez'); sys.exit(c.getresponse().status != 200)"]

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="aircall-oauth" \
      org.opencontainers.image.description="Holds a software company's connections to Aircall" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

ENTRYPOINT ["aircall-oauth"]
CMD ["serve", "--host", "0.0.0.0"]
