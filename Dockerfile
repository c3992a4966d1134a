# One file, three images, arm64 and amd64 alike:
#   operator      the operator: a Python, the operator extra, our code
#   trainer-code  our trainer without torch: verifies checkpoints, and trains where the torch
#                 environment is mounted at /opt/trainer-env
#   trainer       trainer-code with that environment in it
#
# Every version comes from uv.lock. The base is pinned to the multi-platform index of
# python:3.11.16-slim-bookworm; any Debian with a Python 3.11 as python3 does as well:
#   docker build --target operator --build-arg BASE=registry.example/debian-python:1 .
ARG BASE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${BASE} AS build
ARG UV_VERSION=0.13.9
# The system's bundle, for pip too: a site whose proxy inspects TLS puts its certificate there.
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_NO_MANAGED_PYTHON=1 \
    UV_PROJECT_ENVIRONMENT=/opt/curriculum/venv
# Debian splits venv off its Python; the official Python images have it.
RUN python3 -c 'import ensurepip' 2>/dev/null \
 || { apt-get update && apt-get install --yes --no-install-recommends python3.11-venv; }
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --quiet "uv==${UV_VERSION}"
WORKDIR /src
COPY pyproject.toml uv.lock ./

FROM build AS operator-environment
RUN /opt/uv/bin/uv sync --frozen --no-dev --no-install-project --python python3 --extra operator

FROM build AS trainer-code-environment
RUN /opt/uv/bin/uv sync --frozen --no-dev --no-install-project --python python3

FROM build AS trainer-environment
RUN /opt/uv/bin/uv export --quiet --frozen --no-dev --no-emit-project --extra trainer \
      --output-file requirements.txt \
 && /opt/uv/bin/uv pip install --python python3 --target /opt/trainer-env -r requirements.txt

# Compiled here: pods cannot keep what they compile, and would do it at every start. By content, as
# a copy's time of change is not always its source's.
FROM build AS operator-compiled
COPY api/curriculum_api code/curriculum_api
COPY operator/curriculum_operator code/curriculum_operator
RUN python3 -m compileall -q --invalidation-mode unchecked-hash code

FROM build AS trainer-compiled
COPY api/curriculum_api code/curriculum_api
COPY trainer/curriculum_trainer code/curriculum_trainer
RUN python3 -m compileall -q --invalidation-mode unchecked-hash code

FROM ${BASE} AS runtime
# Nothing is written at run time: a read-only root file system and a small /tmp are enough.
# A user with a name, since some libraries look theirs up.
RUN echo 'curriculum:x:65532:65532::/tmp:/usr/sbin/nologin' >> /etc/passwd
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /opt/curriculum
USER 65532:65532

FROM runtime AS operator
COPY --from=operator-environment /opt/curriculum/venv venv
COPY --from=operator-compiled /src/code code
ENV PATH=/opt/curriculum/venv/bin:$PATH \
    PYTHONPATH=/opt/curriculum/code
ENTRYPOINT ["python3", "-m", "curriculum_operator"]

FROM runtime AS trainer-code
COPY --from=trainer-code-environment /opt/curriculum/venv venv
COPY --from=trainer-compiled /src/code code
ENV PATH=/opt/curriculum/venv/bin:/opt/trainer-env/bin:$PATH \
    PYTHONPATH=/opt/curriculum/code:/opt/trainer-env
ENTRYPOINT ["python3", "-m", "curriculum_trainer"]

FROM trainer-code AS trainer
COPY --from=trainer-environment /opt/trainer-env /opt/trainer-env
