"""Files that are renewed under a server, and when its certificate ends."""

from __future__ import annotations

import logging
import os
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from burnish_services.runtime import watched
from burnish_services.runtime.tls import end_of
from burnish_services.runtime.watched import Watched

HOUR = 3600.0


@pytest.mark.parametrize("year", [2001, 2099])
@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_end_of_a_certificate_is_read(tmp_path: Path, year: int, depth: int, newest: ssl.TLSVersion) -> None:
    """Of one that has ended as well, and of the server's own, not of one further up in its chain."""
    ca = trustme.CA()
    for _ in range(depth):
        ca = ca.create_child_ca()
    end = datetime(year, 3, 1, 12, tzinfo=UTC)
    made = ca.issue_cert("scoring.example", not_before=datetime(2000, 1, 1, tzinfo=UTC), not_after=end)
    chain, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    chain.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    made.private_key_pem.write_to_path(str(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = newest
    context.load_cert_chain(chain, key)
    assert end_of(context, chain) == end.timestamp()


def test_of_a_certificate_that_is_not_the_one_shown_nothing_is_read(tmp_path: Path) -> None:
    made, another = (trustme.CA().issue_cert("scoring.example") for _ in range(2))
    chain, other, key = tmp_path / "tls.crt", tmp_path / "other.crt", tmp_path / "tls.key"
    made.cert_chain_pems[0].write_to_path(str(chain))
    another.cert_chain_pems[0].write_to_path(str(other))
    made.private_key_pem.write_to_path(str(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    assert end_of(context, other) is None


def test_what_cannot_be_read_is_complained_of_every_hour_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    monkeypatch.setattr(watched.time, "monotonic", lambda: now)
    path = tmp_path / "number"
    path.write_text("1")
    os.utime(path, (1, 1))
    number = Watched([path], lambda: int(path.read_text()))

    def complaints() -> int:
        return sum(record.levelno == logging.ERROR for record in caplog.records)

    path.write_text("x")
    os.utime(path, (2, 2))
    for said, passes in [(1, 0.0), (1, HOUR / 2), (1, HOUR / 2 - 1), (2, 1.0), (2, HOUR - 1), (3, 1.0)]:
        now += passes
        assert number.changed() == (1, False)
        assert complaints() == said
    # Readable now, and by its date the same file: as after a change of rights.
    path.write_text("7")
    os.utime(path, (2, 2))
    assert number.changed() == (1, False)
    now += HOUR
    assert number.changed() == (7, True)
    now += 2 * HOUR
    assert number.changed() == (7, False)
    assert complaints() == 3
