# Two stages: the first installs, the second runs. It takes nothing of its builder beyond Dockerfiles' oldest syntax, so that
# BuildKit, podman and buildah build it alike; CONTRIBUTING.md says how, and what makes two builds the same.
#
# A tag moves with the fixes of its Debian and its Python; with its digest (python:3.13-slim-trixie@sha256:...) it stays.
ARG PYTHON=python:3.13-slim-trixie

FROM ${PYTHON} AS build
# Seconds since 1970 that every file is given. The default is hatchling's own.
ARG SOURCE_DATE_EPOCH=1580601600
ARG VENV=/opt/cryptoloot-exporter
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
RUN python3 -m venv /opt/build \
    && python3 -m venv --without-pip ${VENV} \
    && /opt/build/bin/pip install --require-hashes --no-deps --only-binary=:all: -r requirements-build.lock \
    && /opt/build/bin/pip --python ${VENV}/bin/python install --no-compile \
        --require-hashes --no-deps --only-binary=:all: -r requirements.lock
COPY pyproject.toml README.md LICENSE config.yaml config.schema.json ./
COPY alerts ./alerts
COPY dashboards ./dashboards
COPY exporter ./exporter
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/build/bin/pip --python ${VENV}/bin/python install --no-compile --no-index --no-deps /dist/*.whl \
    && /opt/build/bin/pip --python ${VENV}/bin/python check
# The bytecode of everything, of Python's own library too: python's images have none, a root that is read-only keeps none, and
# each health check would compile all anew (1.1 s, with it 0.25 s). It is not compared with its source, so that no time of a
# file is in it.
RUN library=$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))') \
    && export PYTHONPYCACHEPREFIX=${VENV}/bytecode PYTHONDONTWRITEBYTECODE=1 \
    && ${VENV}/bin/python -m compileall -q --invalidation-mode unchecked-hash \
        -x '/(ensurepip|idlelib|lib2to3|test|tests|tkinter|turtledemo|site-packages|dist-packages)/' "${library}" \
    && ${VENV}/bin/python -m compileall -q --invalidation-mode unchecked-hash ${VENV}/lib \
    && find ${VENV} -exec touch --no-dereference --date=@${SOURCE_DATE_EPOCH} {} +

FROM ${PYTHON}
ARG VERSION=unknown
ARG REVISION=unknown
ARG PYTHON
LABEL org.opencontainers.image.title="cryptoloot-exporter" \
    org.opencontainers.image.description="Prometheus exporter for the Crypto-Loot HTTP API" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.base.name="${PYTHON}"
ENV CRYPTOLOOT_EXPORTER_REVISION=${REVISION} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPYCACHEPREFIX=/opt/cryptoloot-exporter/bytecode \
    PATH=/opt/cryptoloot-exporter/bin:${PATH}
# What installs packages is of the base image, and has no work here.
RUN find /usr -xdev \( -name ensurepip -o -name python-wheels -o -name pip -o -name 'pip[0-9.]*' -o -name 'pip-*' \
    -o -name setuptools -o -name 'setuptools-*' -o -name pkg_resources -o -name wheel -o -name 'wheel-*' \) \
    -prune -exec rm -r {} +
COPY --from=build /opt/cryptoloot-exporter /opt/cryptoloot-exporter
USER 65532:65532
WORKDIR /etc/cryptoloot-exporter
EXPOSE 12758
HEALTHCHECK --interval=30s --timeout=3s --start-period=5s \
    CMD ["cryptoloot-exporter", "health", "--web.health-socket=/tmp/cryptoloot-exporter.sock"]
ENTRYPOINT ["cryptoloot-exporter"]
CMD ["run", "--config.file=/etc/cryptoloot-exporter/config.yaml", "--web.health-socket=/tmp/cryptoloot-exporter.sock"]
