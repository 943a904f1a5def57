# One image for every process of the project: Airflow, MLflow, Spark's master, workers and drivers, trainers.
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends openjdk-17-jre-headless procps tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 50000 loopfm

WORKDIR /opt/loopfm
COPY requirements.lock ./
RUN pip install --no-cache-dir uv && uv pip install --system --no-cache --requirements requirements.lock

ENV LOOPFM_CACHE=/opt/loopfm/cache \
    PYTHONPATH=/opt/loopfm \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1
COPY pyproject.toml README.md LICENSE ./
COPY feature_store feature_store
RUN python -m feature_store.jars --s3
COPY conf conf
COPY dags dags
COPY models models
COPY pipelines pipelines
COPY search search
COPY benchmarks benchmarks
COPY servers servers
RUN uv pip install --system --no-cache --no-deps --editable . \
    && mkdir -p /opt/airflow /opt/loopfm/scratch /tmp/spark \
    && chown -R loopfm /opt/airflow /opt/loopfm/scratch /tmp/spark

# The commit that the image was built from; models and ledger rows name it.
ARG LOOPFM_COMMIT=unknown
ENV LOOPFM_COMMIT=${LOOPFM_COMMIT} \
    LOOPFM_SCRATCH=/opt/loopfm/scratch
USER loopfm
ENTRYPOINT ["tini", "--"]
