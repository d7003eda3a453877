"""Object storage for tests: moto's S3 server on a port of this machine, with a bucket in it."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.server import ThreadedMotoServer
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

BUCKET = "burnish"


class Gate:
    """Sits before a store: notes what is asked of it, and holds or refuses some of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []  # `GET /bucket/key`, and so on
        self._app = DomainDispatcherApplication(create_backend_app)
        self._held: str | None = None
        self._refused: tuple[str, int] | None = None
        self._open = threading.Event()
        self.waiting = threading.Event()  # somebody is at the closed gate

    def hold(self, words: str) -> None:
        """Lets what matches wait, until `open`."""
        self.waiting.clear()
        self._open.clear()
        self._held = words

    def refuse(self, words: str, status: int) -> None:
        """Answers what matches with an HTTP status."""
        self._refused = (words, status)

    def open(self) -> None:
        """Lets everything through from now on."""
        self._held = self._refused = None
        self._open.set()

    def __call__(self, environment: Any, start: Any) -> Any:
        what = f"{environment['REQUEST_METHOD']} {environment['PATH_INFO']}"
        what += f"?{query}" if (query := environment["QUERY_STRING"]) else ""
        self.asked.append(what)
        if self._held is not None and re.search(self._held, what):
            self.waiting.set()
            self._open.wait(60)
        if self._refused is not None and re.search(self._refused[0], what):
            return Response("", status=self._refused[1])(environment, start)
        return self._app(environment, start)


@contextmanager
def gated_s3_server() -> Iterator[tuple[str, Gate]]:
    """As `s3_server`, with a gate before it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    gate = Gate()
    server = make_server("127.0.0.1", 0, gate, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        _begin_empty(url)
        yield url, gate
    finally:
        gate.open()
        server.shutdown()
        thread.join()


@contextmanager
def s3_server() -> Iterator[str]:
    """An S3 server with the bucket in it, on a port that the system chooses."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request otherwise
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        _begin_empty(url)
        yield url
    finally:
        server.stop()


def _begin_empty(url: str) -> None:
    """Makes the bucket. What an earlier server of this process held goes, for moto's objects are their process's."""
    urlopen(Request(f"{url}/moto-api/reset", method="POST")).close()
    urlopen(Request(f"{url}/{BUCKET}", method="PUT")).close()


def put(endpoint: str, key: str, content: bytes) -> str:
    """Stores an object; returns its URI."""
    _client(endpoint).put_object(Bucket=BUCKET, Key=key, Body=content)
    return f"s3://{BUCKET}/{key}"


def read(endpoint: str, key: str) -> bytes:
    """An object's bytes."""
    content: bytes = _client(endpoint).get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return content


def delete(endpoint: str, key: str) -> None:
    """Removes an object."""
    _client(endpoint).delete_object(Bucket=BUCKET, Key=key)


@lru_cache(maxsize=1)
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
