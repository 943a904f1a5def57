"""``python -m pipelines.servers``: what a new set of servers needs once, safe to repeat before every start.

Airflow's metadata database is brought up to this Airflow, its pools and the one user's password are set, and the bucket
of tables and artifacts is made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from feature_store.object_store import ENDPOINT_SETTING, on_s3
from pipelines.config import HOME_SETTING, home
from pipelines.errors import ConfigError, PipelineError, StepError
from pipelines.orchestration.airflow_env import POOLS, USER

ADMIN_PASSWORD_SETTING = "AIRFLOW_ADMIN_PASSWORD"
PASSWORDS_SETTING = "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"


def prepare(environment: Mapping[str, str]) -> None:
    """Database, pools, password, bucket.

    Raises:
        ConfigError: a setting is missing.
        StepError: Airflow's command line refuses, or the object store does; the message holds its reason.
    """
    write_password(environment)
    _airflow("db", "migrate")
    for name, description in POOLS.items():
        _airflow("pools", "set", name, "1", description)
    if on_s3(home()):
        make_bucket(bucket_of(home()))


def write_password(environment: Mapping[str, str]) -> None:
    """The file that Airflow's login reads: readable by its owner only, replaced as a whole.

    Raises:
        ConfigError: no password, or no place for it, is set.
    """
    for setting in (ADMIN_PASSWORD_SETTING, PASSWORDS_SETTING):
        if not environment.get(setting):
            raise ConfigError(f"{setting} is not set; see servers/example.env and docker-compose.yml")
    path = Path(environment[PASSWORDS_SETTING])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps({USER: environment[ADMIN_PASSWORD_SETTING]}))
    temporary.replace(path)


def bucket_of(uri: str) -> str:
    """Bucket of an S3 URI.

    Raises:
        ConfigError: the URI names none.
    """
    bucket = urlsplit(uri).netloc
    if not bucket:
        raise ConfigError(f"{HOME_SETTING}: got {uri}; allowed: s3a://BUCKET/FOLDER")
    return bucket


def make_bucket(bucket: str) -> None:
    """Make the bucket unless it is there.

    Raises:
        StepError: the store refuses, or does not answer.
    """
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client: Any = boto3.client("s3")
    try:
        try:
            client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            client.create_bucket(Bucket=bucket)
    except (BotoCoreError, ClientError) as error:
        raise StepError(
            f"bucket {bucket} can neither be found nor made: {error}; check {ENDPOINT_SETTING} and the keys"
        ) from error


def _airflow(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "airflow", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise StepError(f"airflow {' '.join(arguments)} failed:\n{tail}")


def main() -> int:
    """Prepare; known errors end with their message and exit status 1."""
    try:
        prepare(os.environ)
    except PipelineError as error:
        print(f"servers: {error}", file=sys.stderr)
        return 1
    print("servers: database, pools, login and bucket are ready")
    return 0


if __name__ == "__main__":
    sys.exit(main())
