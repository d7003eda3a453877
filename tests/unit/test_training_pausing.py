"""What a run was given at its pauses, and what stays of it: digests."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish_services.training import pausing
from burnish_services.training.data import file_digest
from burnish_services.training.runs import RunDirectory


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    (tmp_path / "run-1").mkdir()
    return RunDirectory(tmp_path / "run-1")


@pytest.fixture
def given(tmp_path: Path) -> Path:
    path = tmp_path / "responses.jsonl"
    path.write_text('{"responses": []}\n')
    return path


def test_what_was_given_is_known_when_it_is_gone(directory: RunDirectory, given: Path) -> None:
    digest = file_digest(given)
    assert pausing.given_digest(directory, 3) is None
    pausing.forget_pools(directory)  # it has not even paused
    pausing.write_pool(directory, 3, given, digest, last=True)
    pausing.write_pool(directory, 11, None, "sha256:nothing", last=False)
    assert pausing.newest_pool(directory, 5) == directory.pool(3)
    pausing.forget_pools(directory)
    pausing.forget_pools(directory)
    assert pausing.newest_pool(directory, 99) is None
    assert pausing.given_digest(directory, 3) == digest
    assert pausing.given_digest(directory, 11) == "sha256:nothing"
    assert directory.no_more.is_file()


def test_what_an_earlier_release_was_given_is_hashed_before_it_goes(directory: RunDirectory, given: Path) -> None:
    directory.pool(3).parent.mkdir()
    given.rename(directory.pool(3))
    digest = file_digest(directory.pool(3))
    assert pausing.given_digest(directory, 3) == digest
    pausing.forget_pools(directory)
    assert not directory.pool(3).exists()
    assert pausing.given_digest(directory, 3) == digest


def test_the_digest_is_there_before_the_pause_is_over(
    directory: RunDirectory, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(source: Path, path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pausing, "copy_durably", killed)
        with pytest.raises(KeyboardInterrupt):
            pausing.write_pool(directory, 3, given, "sha256:first", last=False)
    assert not directory.pool(3).exists()
    pausing.write_pool(directory, 3, given, "sha256:second", last=False)  # which was said again, otherwise
    assert pausing.given_digest(directory, 3) == "sha256:second"
