FROM python:3.11.14-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY requirements.lock requirements-build.lock ./
RUN python -m venv --without-pip /app \
    && pip --python /app/bin/python install --require-hashes -r requirements.lock \
    && pip install --require-hashes -r requirements-build.lock
COPY pyproject.toml ./
COPY schema schema
COPY client client
COPY sql sql
COPY handlers handlers
COPY cli cli
COPY worker worker
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && pip --python /app/bin/python install --no-deps /wheels/*.whl

FROM python:3.11.14-slim
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
ENTRYPOINT ["export-runs"]
CMD ["worker"]
