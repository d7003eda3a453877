"""A ledger that a disk or a copy has damaged: it is said so, what is whole is saved, and the same command goes on."""

from __future__ import annotations

import errno
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from burnish import Client
from burnish.coordinator.errors import Interrupted, LedgerDamaged, LedgerError
from burnish.coordinator.ledger import Ledger, connected
from burnish.coordinator.loop import RunOptions, run_recipe
from burnish.coordinator.progress import StepProgress
from burnish.coordinator.repair import KEYED_BY_CONTENT, repair
from burnish.coordinator.sweep import Point, sweep
from burnish.testing import FakeServices
from tests.e2e.commands import burnish
from tests.e2e.conftest import FakeEngineServices
from tests.e2e.support import Watcher, alpaca, digest_of_final, run, settings, write_jsonl

BLOCK = 262_144  # bytes, DuckDB's
HEADERS = 3 * 4096


@pytest.fixture(scope="module")
def finished(services: FakeEngineServices, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("finished")
    write_jsonl(folder / "data.jsonl", alpaca(24, duplicates=3))
    with Client(services.address) as client:
        run(client, folder / "out", folder / "data.jsonl", model=str(services.model))
    return folder


@pytest.fixture
def client(services: FakeEngineServices) -> Iterator[Client]:
    with Client(services.address) as made:
        yield made


def overwrite(path: Path, position: int, rng: random.Random) -> None:
    with path.open("r+b") as stream:
        stream.seek(position)
        stream.write(rng.randbytes(64))


def block_of(path: Path, text: bytes) -> int:
    """Where the file has a text, in a block of rows."""
    position = path.read_bytes().find(text)
    assert position > HEADERS
    return position


def test_a_damaged_run_is_repaired_and_ends_as_though_nothing_had_been(
    finished: Path, services: FakeEngineServices, client: Client, tmp_path: Path
) -> None:
    rng, noticed, expected = random.Random(4), 0, digest_of_final(finished / "out")
    for number in range(4):
        out = tmp_path / f"out{number}"
        shutil.copytree(finished / "out", out)
        ledger = out / "ledger.duckdb"
        overwrite(ledger, rng.randrange(2 * BLOCK, ledger.stat().st_size), rng)
        done = repair(ledger)
        if done.moved_to is None:
            continue  # a block that nothing is in
        assert done.moved_to.name == "ledger.duckdb.damaged-1"
        assert {saved.table for saved in done.tables} == {*KEYED_BY_CONTENT, "run"}
        assert sum(saved.kept for saved in done.tables) > 0
        noticed += 1
        run(client, out, finished / "data.jsonl", model=str(services.model))
        assert digest_of_final(out) == expected
        assert repair(ledger).moved_to is None
    assert noticed >= 2, "the damage hit nothing; the test proves little"


def test_where_nothing_can_be_read_the_ledger_is_moved_away_and_all_is_done_anew(
    finished: Path, services: FakeEngineServices, client: Client, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished / "out", out)
    ledger = out / "ledger.duckdb"
    overwrite(ledger, HEADERS + 100, random.Random(1))  # what says where everything is
    with pytest.raises(LedgerDamaged, match=r"nothing of it can be read .*move it away and run the same command"):
        repair(ledger)
    ledger.rename(out / "broken")
    run(client, out, finished / "data.jsonl", model=str(services.model))
    assert digest_of_final(out) == digest_of_final(finished / "out")


def test_only_what_was_lost_is_asked_for_again(
    finished: Path, services: FakeEngineServices, client: Client, tmp_path: Path
) -> None:
    out, watcher = tmp_path / "out", Watcher()
    shutil.copytree(finished / "out", out)
    ledger = out / "ledger.duckdb"
    # The source's own text stands in the tables of rows and samples, not among scores.
    overwrite(ledger, block_of(ledger, b"Tell me about"), random.Random(1))
    with connected(ledger) as opened, pytest.raises(LedgerDamaged, match=r"burnish repair .*out`"):
        opened.select("SELECT sample.messages, source_row.record FROM sample, source_row")
    result = burnish("repair", out)
    assert result.exit_code == 0, result.output
    assert f"Go on with: burnish resume {out}" in result.output
    run_recipe(settings(finished / "data.jsonl", model=str(services.model)), client, out, observer=watcher)
    scored = watcher.step(1, "score_pre")
    assert scored.reused == scored.total > 0
    assert digest_of_final(out) == digest_of_final(finished / "out")
    again = burnish("repair", out, "--json")
    assert '"moved_to": null' in again.output


@pytest.mark.parametrize("named", [".", "seed=1"])
def test_of_a_sweeps_ledger_the_sweep_is_repeated(
    fakes: FakeServices, finished: Path, tmp_path: Path, named: str
) -> None:
    out = tmp_path / "sweep"
    points = [Point({"seed": seed}, settings(finished / "data.jsonl", seed=int(seed))) for seed in ("1", "2")]
    with Client(fakes.endpoints) as client:
        sweep(points, client, out)
        ledger = out / "ledger.duckdb"
        for found in re.finditer(b"Tell me about", ledger.read_bytes()):  # some of them in blocks that nothing is in
            overwrite(ledger, found.start(), random.Random(1))
        result = burnish("repair", out / named)
        assert result.exit_code == 0, result.output
        assert "damaged-1. To go on, repeat the sweep: the same command." in " ".join(result.output.split())
        assert len(sweep(points, client, out)) == 2


def test_what_is_whole_of_the_write_ahead_log_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "ledger.duckdb"
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from burnish.coordinator.ledger import Ledger\n"
        "ledger = Ledger.open(Path(sys.argv[1]))\n"
        "for i in range(40):\n"
        "    with ledger.transaction():\n"
        "        ledger.append('sample', ('sample_hash', 'messages'), [(f's{i}', '[]' + ' ' * 500)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -signal.SIGKILL
    wal = path.with_name("ledger.duckdb.wal")
    overwrite(wal, wal.read_bytes().find(b"s30"), random.Random(1))
    with pytest.raises(LedgerDamaged, match="is damaged"):
        Ledger.open(path)
    done = repair(path)
    assert done.moved_to is not None
    (samples,) = [saved for saved in done.tables if saved.table == "sample"]
    assert samples.kept == 30
    assert done.moved_to.with_name(done.moved_to.name + ".wal").exists()
    assert not wal.exists()


def test_rows_around_a_hole_are_saved(tmp_path: Path) -> None:
    path, rng = tmp_path / "ledger.duckdb", random.Random(1)
    with Ledger.open(path) as ledger, ledger.transaction():
        rows = [(f"s{i:06}", f'["{rng.randbytes(40).hex()}"]') for i in range(60_000)]
        ledger.append("sample", ("sample_hash", "messages"), rows)
    overwrite(path, path.stat().st_size // 2, rng)
    (samples,) = [saved for saved in repair(path).tables if saved.table == "sample"]
    assert 0 < samples.lost < 30_000
    assert samples.kept + samples.lost == 60_000
    with Ledger.open(path) as ledger:
        found = dict(ledger.select("SELECT sample_hash, messages FROM sample"))
        assert len(found) == samples.kept
        assert found.items() <= dict(rows).items()


def test_a_file_that_is_no_ledger_at_all_says_so(tmp_path: Path) -> None:
    path = tmp_path / "ledger.duckdb"
    path.write_bytes(b"\0" * 100_000)
    with pytest.raises(LedgerError, match="put a copy back, or move it away"):
        Ledger.open(path)
    with pytest.raises(LedgerError, match="put a copy back, or move it away"):
        repair(path)


def test_pruned_models_are_trained_again_where_the_ledger_lost_what_they_were_for(
    services: FakeEngineServices, client: Client, tmp_path: Path
) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", alpaca(24, duplicates=3))
    asked = settings(data, model=str(services.model), rounds=2)
    out, options = tmp_path / "out", RunOptions(keep_models="last")
    run_recipe(asked, client, out, options=options)
    assert [path.name for path in sorted((out / "models").iterdir())] == ["round-3"]
    before = digest_of_final(out)
    (out / "ledger.duckdb").rename(tmp_path / "away")
    run_recipe(asked, client, out, options=options)
    assert digest_of_final(out) == before


def damaged_ledger(tmp_path: Path) -> Path:
    """A ledger with a hole and a write-ahead log."""
    path, rng = tmp_path / "ledger.duckdb", random.Random(1)
    with Ledger.open(path) as ledger, ledger.transaction():
        rows = [(f"s{i:05}", f'["{rng.randbytes(40).hex()}"]') for i in range(30_000)]
        ledger.append("sample", ("sample_hash", "messages"), rows)
    overwrite(path, path.stat().st_size // 2, rng)
    return path


def test_without_links_the_damaged_ledger_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = damaged_ledger(tmp_path)
    before = path.read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    kept = repair(path).moved_to
    assert kept is not None
    assert kept.read_bytes() == before
    assert repair(path).moved_to is None


@pytest.mark.parametrize("last", ["hardlink_to", "unlink", "replace"])
def test_killed_as_the_ledgers_are_exchanged_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    path = damaged_ledger(tmp_path)
    log = path.with_name("ledger.duckdb.wal")
    log.write_bytes(b"")  # what it says is of no account here
    before, do = path.read_bytes(), getattr(Path, last)

    def killed(self: Path, *given: Any, **more: Any) -> None:
        if (self.parent == tmp_path and (last != "unlink" or self == log)) or self.name == "new.duckdb":
            raise KeyboardInterrupt
        do(self, *given, **more)

    monkeypatch.setattr(Path, last, killed)
    with pytest.raises(KeyboardInterrupt):
        repair(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    done = repair(path)
    assert done.moved_to is not None
    assert done.moved_to.read_bytes() == before
    assert done.moved_to.with_name(f"{done.moved_to.name}.wal").exists()
    assert not log.exists()
    assert len(list(tmp_path.glob("ledger.duckdb.damaged-*"))) == 2, "one, and its log"
    assert repair(path).moved_to is None


def test_events_that_the_training_service_counts_anew_take_the_place_of_the_old_ones(
    finished: Path, services: FakeEngineServices, client: Client, tmp_path: Path
) -> None:
    """As after the service lost its state: it knows fewer events of a run than the ledger has."""

    class Stop(Watcher):
        def step_started(self, step: StepProgress) -> None:
            if step.name == "score_post":
                raise Interrupted("enough")

    out, asked = tmp_path / "out", settings(finished / "data.jsonl", model=str(services.model))
    with pytest.raises(Interrupted):
        run_recipe(asked, client, out, observer=Stop())
    with Ledger.open(out / "ledger.duckdb") as ledger, ledger.transaction():
        ledger.execute("UPDATE training_event SET number = number + 1000, state = 'running'")
        ledger.execute("DELETE FROM model WHERE role = 'trained'")
        ledger.execute("DELETE FROM step WHERE name = 'train'")
    run_recipe(asked, client, out)
    with Ledger.open(out / "ledger.duckdb") as ledger:
        ((last, ended),) = ledger.select("SELECT max(number), bool_or(state = 'succeeded') FROM training_event")
    assert last < 1000
    assert ended
    assert digest_of_final(out) == digest_of_final(finished / "out")
