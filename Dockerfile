# Two stages: the first installs, the second runs. See CONTRIBUTING.md for building without Docker.
ARG PYTHON=python:3.13-slim-bookworm

FROM ${PYTHON} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY exporter ./exporter
RUN python -m venv /opt/cryptoloot-exporter \
    && /opt/cryptoloot-exporter/bin/pip install --no-cache-dir --no-compile . \
    && /opt/cryptoloot-exporter/bin/pip uninstall --yes pip

FROM ${PYTHON}
ARG REVISION=unknown
ENV CRYPTOLOOT_EXPORTER_REVISION=${REVISION} \
    PYTHONDONTWRITEBYTECODE=1 \
    PATH=/opt/cryptoloot-exporter/bin:$PATH
COPY --from=build /opt/cryptoloot-exporter /opt/cryptoloot-exporter
USER 65532:65532
WORKDIR /etc/cryptoloot-exporter
EXPOSE 12758
HEALTHCHECK --interval=30s --timeout=3s --start-period=5s \
    CMD ["cryptoloot-exporter", "health", "--web.health-socket=/tmp/cryptoloot-exporter.sock"]
ENTRYPOINT ["cryptoloot-exporter"]
CMD ["run", "--config.file=/etc/cryptoloot-exporter/config.yaml", "--web.health-socket=/tmp/cryptoloot-exporter.sock"]
