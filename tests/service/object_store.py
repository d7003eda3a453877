"""Object storage for tests: moto's S3 server on a port of this machine, with a bucket in it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import pytest
from moto.server import ThreadedMotoServer

BUCKET = "burnish"


@contextmanager
def s3_server() -> Iterator[str]:
    """An S3 server with the bucket in it, on a port that the system chooses."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request otherwise
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        urlopen(Request(f"{url}/{BUCKET}", method="PUT")).close()
        yield url
    finally:
        server.stop()


def put(endpoint: str, key: str, content: bytes) -> str:
    """Stores an object; returns its URI."""
    _client(endpoint).put_object(Bucket=BUCKET, Key=key, Body=content)
    return f"s3://{BUCKET}/{key}"


def delete(endpoint: str, key: str) -> None:
    """Removes an object."""
    _client(endpoint).delete_object(Bucket=BUCKET, Key=key)


def _client(endpoint: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def point_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    # Where else credentials are looked for:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def names_below(endpoint: str, prefix: str) -> list[str]:
    """The keys of all objects below a prefix."""
    found = _client(endpoint).list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")
    return [item["Key"] for item in found.get("Contents", [])]


def put_model(endpoint: str, prefix: str, model: Path) -> str:
    """Stores a model's files; returns its URI."""
    for path in sorted(model.iterdir()):
        put(endpoint, f"{prefix}/{path.name}", path.read_bytes())
    return f"s3://{BUCKET}/{prefix}"
