"""What the three readers of an object store need to be told: Spark (s3a), delta-rs and pyarrow (s3).

Credentials, region and endpoint come from the environment variables that all three read by themselves
(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL; delta-rs wants AWS_ALLOW_HTTP=true for an
endpoint without TLS); no secret goes through a setting of Spark. Only what differs is set here.
"""

from __future__ import annotations

import os

ENDPOINT_SETTING = "AWS_ENDPOINT_URL"
REGION_SETTING = "AWS_REGION"

_SCHEMES = ("s3://", "s3a://")


def on_s3(uri: str) -> bool:
    """Whether a folder or URI lies on an S3-compatible store."""
    return uri.startswith(_SCHEMES)


def s3_uri(uri: str) -> str:
    """The spelling of delta-rs, pyarrow and MLflow; anything that is not on S3 stays as it is."""
    return uri.replace("s3a://", "s3://", 1) if on_s3(uri) else uri


def s3a_uri(uri: str) -> str:
    """The spelling of Spark; anything that is not on S3 stays as it is."""
    return uri.replace("s3://", "s3a://", 1) if uri.startswith("s3://") else uri


def s3a_settings() -> dict[str, str]:
    """Spark's settings for S3: the endpoint that the environment names, and writes in memory-bounded blocks."""
    settings = {"spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem"}
    endpoint = os.environ.get(ENDPOINT_SETTING)
    if endpoint:
        # A store of one's own has no host name per bucket.
        settings |= {"spark.hadoop.fs.s3a.endpoint": endpoint, "spark.hadoop.fs.s3a.path.style.access": "true"}
    region = os.environ.get(REGION_SETTING)
    if region:
        settings["spark.hadoop.fs.s3a.endpoint.region"] = region
    return settings
