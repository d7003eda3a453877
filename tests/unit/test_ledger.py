"""The ledger: one writer, whole batches, a schema that only moves forward, and what happens when things go wrong."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from burnish._response_types import FinishReason, GeneratedResponse, PromptResponses
from burnish._types import (
    Dimension,
    ItemStatus,
    Message,
    ModelVersion,
    Neighbor,
    NeighborStatistics,
    Rating,
    Role,
    SampleJudgment,
    SampleScore,
    Target,
    UnconditionalScore,
)
from burnish.coordinator import ledger as ledger_module
from burnish.coordinator.beliefs import ResponseKey
from burnish.coordinator.book import RunBook
from burnish.coordinator.content import sample_hash
from burnish.coordinator.errors import DiskFull, LedgerBusy, LedgerError, LedgerTooNew
from burnish.coordinator.findings import Findings, JudgeKey, Parts
from burnish.coordinator.history import RunHistory
from burnish.coordinator.ledger import Ledger, check_free, lock_holder, migrations
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.middo import RATINGS
from burnish.coordinator.records import ScoreRecord

VERSION = ModelVersion("m", "sha256:" + "0" * 64, "fake/1", "float32", "t" * 16)
BUSY = ItemStatus(14, "BUSY", "later", retryable=True)
TOO_LONG = ItemStatus(3, "TOO_LONG", "too long")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.duckdb"


def run_python(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_new_ledger_has_the_newest_schema_and_opens_again(path: Path) -> None:
    with Ledger.open(path) as ledger:
        assert ledger.select("SELECT max(version) FROM schema_version") == [(len(migrations()),)]
    with Ledger.open(path) as ledger:
        assert ledger.select("SELECT count(*) FROM schema_version") == [(len(migrations()),)]


def test_a_second_writer_is_told_who_holds_the_ledger(path: Path) -> None:
    code = """
        import sys; from pathlib import Path
        from burnish.coordinator.ledger import Ledger
        from burnish.coordinator.errors import LedgerBusy
        for read_only in (False, True):
            try:
                Ledger.open(Path(sys.argv[1]), read_only=read_only)
            except LedgerBusy as error:
                print(error.pid, error)
    """
    with Ledger.open(path):
        assert lock_holder(path) == os.getpid()
        outcome = run_python(code, path)
        assert outcome.stdout.count(f"{os.getpid()} {path} is being written by process {os.getpid()}") == 2, outcome
        assert "burnish status" in outcome.stdout
        with pytest.raises(LedgerBusy):  # and within the same process
            Ledger.open(path)
    assert lock_holder(path) is None
    with Ledger.open(path, read_only=True) as one, Ledger.open(path, read_only=True) as two:
        assert one.select("SELECT 1") == two.select("SELECT 1")


def test_anothers_lock_can_be_looked_at_and_one_that_cannot_counts_as_held(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = Path.open, "aw+"

    def only_to_read(self: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        if self.suffix == ".lock" and any(letter in mode for letter in refused):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self, mode, *more, **options)

    with Ledger.open(path):
        monkeypatch.setattr(Path, "open", only_to_read)
        assert lock_holder(path) == os.getpid()
    assert lock_holder(path) is None
    refused = "r"
    assert lock_holder(path) == 0
    with pytest.raises(LedgerBusy, match="is being written by another process"):
        check_free(path)


def test_a_writer_waits_for_who_only_reads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Ledger.open(path).close()
    code = """
        import sys, time; from pathlib import Path
        from burnish.coordinator.ledger import Ledger
        with Ledger.open(Path(sys.argv[1]), read_only=True):
            print("reading", flush=True)
            sys.stdin.readline()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        monkeypatch.setattr(ledger_module, "_READERS_END", 0.3)
        said: list[str] = []
        with pytest.raises(LedgerBusy, match=f"is being read by process {reader.pid} .a report, explain or ") as busy:
            Ledger.open(path, while_read=said.append)
        assert busy.value.pid == reader.pid
        assert "written by" not in str(busy.value)
        assert f"read by process {reader.pid}" in said[0]
        monkeypatch.undo()
        assert ledger_module._READERS_END >= 120, "a report of a large run takes its time"
        with pytest.raises(KeyboardInterrupt):
            Ledger.open(path, while_read=interrupt)
        assert lock_holder(path) is None
        soon = threading.Timer(0.3, lambda: reader.communicate("\n"))
        soon.start()
        Ledger.open(path).close()
        soon.join()


def interrupt(_said: str) -> None:
    raise KeyboardInterrupt


def test_who_writes_is_named_and_never_by_a_placeholder(path: Path) -> None:
    import duckdb

    known = duckdb.IOException("Could not set lock on file: Conflicting lock is held in /usr/bin/python (PID 4711).")
    assert "(kill -INT 4711)" in str(ledger_module._translated(path, known))
    unknown = str(ledger_module._translated(path, duckdb.IOException("Could not set lock on file")))
    assert "wait for it, or stop it and run this again" in unknown
    assert "PID" not in unknown


def test_the_log_of_a_ledger_that_was_moved_away_is_put_aside(path: Path) -> None:
    code = """
        import os, signal, sys; from pathlib import Path
        from burnish.coordinator.ledger import Ledger
        ledger = Ledger.open(Path(sys.argv[1]))
        with ledger.transaction():
            ledger.append("sample", ("sample_hash", "messages"), [("a", "[]")])
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_python(code, path).returncode == -signal.SIGKILL
    log = path.with_name(f"{path.name}.wal").read_bytes()
    path.rename(path.with_name("away"))
    with Ledger.open(path) as ledger:
        assert ledger.select("SELECT count(*) FROM sample") == [(0,)]
    (left,) = path.parent.glob(f"{path.name}.wal.left-*")
    assert left.read_bytes() == log


def test_a_schema_from_the_future_is_refused(path: Path) -> None:
    with Ledger.open(path) as ledger, ledger.transaction():
        ledger.execute("INSERT INTO schema_version VALUES (99)")
    for read_only in (False, True):
        with pytest.raises(LedgerTooNew, match=r"schema version 99; this Burnish knows versions up to \d+"):
            Ledger.open(path, read_only=read_only)
    assert lock_holder(path) is None


def test_an_older_ledger_is_brought_forward_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.open(path) as ledger, ledger.transaction():
        ledger.execute("INSERT INTO sample VALUES ('h', '[]')")
    more = (*migrations(), "CREATE TABLE later (x INTEGER); ALTER TABLE sample ADD COLUMN note VARCHAR;")
    monkeypatch.setattr(ledger_module, "migrations", lambda: more)
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.select("SELECT sample_hash, note FROM sample") == [("h", None)]
    with Ledger.open(path) as ledger:
        assert ledger.select("SELECT max(version), count(*) FROM schema_version") == [(len(more), len(more))]


def test_a_migration_that_fails_leaves_the_ledger_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Ledger.open(path).close()
    old = migrations()
    monkeypatch.setattr(ledger_module, "migrations", lambda: (*old, "CREATE TABLE later (x INTEGER); SELECT nonsense;"))
    with pytest.raises(LedgerError, match="nonsense"):
        Ledger.open(path)
    monkeypatch.setattr(ledger_module, "migrations", lambda: old)
    with Ledger.open(path) as ledger:
        assert ledger.select("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'later'") == [(0,)]


def test_a_file_that_is_no_ledger_is_refused(path: Path) -> None:
    path.write_text("hello, I am a text file" * 1000)
    with pytest.raises(LedgerError, match="is no ledger"):
        Ledger.open(path)
    with pytest.raises(LedgerError, match="there is no ledger"):
        Ledger.open(path.with_name("missing"), read_only=True)


def test_another_duckdb_file_is_not_taken_for_a_ledger(path: Path) -> None:
    connection = ledger_module._connect(path, read_only=False)
    connection.execute("CREATE TABLE mine (x INTEGER)")
    connection.close()
    with pytest.raises(LedgerError, match="no ledger of Burnish"):
        Ledger.open(path)


def test_a_transaction_gets_in_whole_or_not_at_all(path: Path) -> None:
    with Ledger.open(path) as ledger:

        def add_twice(name: str, *, then: str = "") -> None:
            with ledger.transaction():
                ledger.append("sample", ("sample_hash", "messages"), [(name, "[]")])
                if then:
                    raise RuntimeError(then)
                ledger.append("sample", ("sample_hash", "messages"), [(name, "[]")])

        with pytest.raises(RuntimeError, match="stop"):
            add_twice("a", then="stop")
        with pytest.raises(LedgerError, match="duplicate key"):
            add_twice("b")
        assert ledger.select("SELECT * FROM sample") == []
        with ledger.transaction():
            ledger.append("sample", ("sample_hash", "messages"), [("c", "[]")])
        assert ledger.select("SELECT sample_hash FROM sample") == [("c",)]


def test_reading_in_a_stream_may_be_mixed_with_other_queries(path: Path) -> None:
    with Ledger.open(path) as ledger:
        with ledger.transaction():
            ledger.append("sample", ("sample_hash", "messages"), [(f"{i:04d}", "[]") for i in range(5000)])
        seen = []
        for (name,) in ledger.stream("SELECT sample_hash FROM sample ORDER BY 1", size=100):
            seen.append(name)
            if len(seen) % 1000 == 0:
                assert ledger.select("SELECT count(*) FROM sample") == [(5000,)]
        assert seen == [f"{i:04d}" for i in range(5000)]


@pytest.mark.parametrize("when", ["made", "open", "committed"])
def test_a_kill_at_any_moment_leaves_a_ledger_with_all_that_was_committed(path: Path, when: str) -> None:
    code = """
        import os, signal, sys; from pathlib import Path
        from burnish.coordinator import ledger as m
        path, when = Path(sys.argv[1]), sys.argv[2]
        die = lambda: os.kill(os.getpid(), signal.SIGKILL)
        if when == "made":
            m._connect(path.with_name("." + path.name + ".new"), read_only=False).execute("CREATE TABLE x (y INTEGER)")
            die()
        ledger = m.Ledger.open(path)
        with ledger.transaction():
            ledger.append("sample", ("sample_hash", "messages"), [("a", "[]")])
        ledger._connection.begin()
        ledger.append("sample", ("sample_hash", "messages"), [("b", "[]")])
        if when == "committed":
            ledger._connection.commit()
        die()
    """
    assert run_python(code, path, when).returncode == -signal.SIGKILL
    expected = {"made": [], "open": [("a",)], "committed": [("a",), ("b",)]}[when]
    if when != "made":
        with Ledger.open(path, read_only=True) as ledger:  # what the write-ahead log holds is seen as well
            assert ledger.select("SELECT sample_hash FROM sample ORDER BY 1") == expected
    with Ledger.open(path) as ledger:
        assert ledger.select("SELECT sample_hash FROM sample ORDER BY 1") == expected


def test_a_full_disk_is_said_so_and_nothing_committed_is_lost(path: Path) -> None:
    """A limit on file size stands in for the full disk: writes fail in the same way, with another errno."""
    code = """
        import os, resource, signal, sys; from pathlib import Path
        from burnish.coordinator.ledger import Ledger
        from burnish.coordinator.errors import DiskFull
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        ledger = Ledger.open(Path(sys.argv[1]))
        size = 4 << 20
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        done = 0
        try:
            while done < 1000:
                rows = [(f"{done}-{i}", '"' + os.urandom(5000).hex() + '"') for i in range(50)]
                with ledger.transaction():
                    ledger.append("sample", ("sample_hash", "messages"), rows)
                done += 1
        except DiskFull as error:
            print(done, error, flush=True)
        os._exit(0)
    """
    outcome = run_python(code, path)
    batches, _, message = outcome.stdout.partition(" ")
    assert "a quota on it, is full" in message, outcome
    assert 0 < int(batches) < 1000
    with Ledger.open(path) as ledger:
        assert ledger.select("SELECT count(*) FROM sample") == [(50 * int(batches),)]
        with ledger.transaction():
            ledger.append("sample", ("sample_hash", "messages"), [("more", "[]")])


def test_files_beside_the_ledger_say_that_the_disk_is_full_too(tmp_path: Path) -> None:
    code = """
        import resource, signal, sys; from pathlib import Path
        from burnish.coordinator.atomic import writing_whole
        from burnish.coordinator.errors import DiskFull
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        path = Path(sys.argv[1])
        path.write_text("before")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            with writing_whole(path) as stream:
                stream.write(b"x" * 5000)
        except DiskFull as error:
            print(error)
    """
    target = tmp_path / "data.jsonl"
    outcome = run_python(code, target)
    assert "free some room and run the same command again" in outcome.stdout, outcome
    assert target.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["data.jsonl"]


# ---- what services found


def score(name: str, status: ItemStatus = ItemStatus(), value: float | None = None) -> SampleScore:
    return SampleScore(name, status, value, value, value, 1 if value is not None else 0)


def test_a_score_is_never_altered_but_a_retryable_failure_gives_way(path: Path) -> None:
    with Ledger.open(path) as ledger:
        findings = Findings(ledger)
        names = ["a", "b", "c", "d"]
        assert findings.unscored(names, VERSION) == names
        with ledger.transaction():
            findings.add_scores(VERSION, [score("a", value=1.0), score("b", BUSY), score("c", TOO_LONG)])
        assert findings.unscored(names, VERSION) == ["b", "d"]
        with ledger.transaction():
            findings.add_scores(VERSION, [score(n, value=9.0) for n in ("a", "b", "c")])
        assert findings.losses(names, VERSION) == {"a": 1.0, "b": 9.0, "c": None}
        assert findings.unscored(names, VERSION) == ["d"]
        other = ModelVersion("m", VERSION.digest, "fake/1", "float32", "u" * 16)
        assert findings.unscored(["a"], other) == ["a"]  # another chat template is another score


def test_findings_come_in_the_order_that_is_asked_for_and_not_in_that_of_their_arrival(path: Path) -> None:
    names = [f"{number:04}" for number in range(2000)]
    asked = names[::7]
    with Ledger.open(path) as ledger:
        findings = Findings(ledger)
        with ledger.transaction():
            findings.add_scores(VERSION, [score(name, value=1.0) for name in reversed(names)])
        assert list(findings.scores(asked, VERSION)) == asked
        assert list(findings.losses(asked, VERSION)) == asked


def test_neighbours_that_were_found_anew_take_the_place_of_the_old(path: Path) -> None:
    def found(*near: str) -> NeighborStatistics:
        return NeighborStatistics("a", 0.5, tuple(Neighbor(name, 0.5) for name in near))

    with Ledger.open(path) as ledger:
        findings = Findings(ledger)
        for near in (["b"], ["c", "b"]):  # `c` could not be embedded at first
            with ledger.transaction():
                findings.add_neighborhoods("set", "sha256:0", 2, [found(*near)])
        assert [name for name, _ in findings.neighborhoods("set", "sha256:0", 2)["a"]] == ["c", "b"]


def test_what_is_known_to_be_absent_is_not_looked_for_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.open(path) as ledger:
        findings, said = Findings(ledger), []
        execute = ledger.execute

        def told(statement: str, *more: Any) -> None:
            said.append("ON CONFLICT" in statement)
            execute(statement, *more)

        monkeypatch.setattr(ledger, "execute", told)
        failed = ItemStatus(14, "UNAVAILABLE", "away", True)
        assert findings.unscored(["a", "b", "c"], VERSION) == ["a", "b", "c"]
        with ledger.transaction():
            findings.add_scores(VERSION, [score("a", value=1.0), score("b", failed)])
        assert said == [False], "DuckDB would join the batch with the whole table"
        with ledger.transaction():  # what was not looked for, and what came meanwhile, may be there
            findings.add_scores(VERSION, [score("a", value=9.0), score("d", value=4.0)])
        assert findings.unscored(["a", "b", "c", "d"], VERSION) == ["b", "c"]
        with ledger.transaction():
            findings.add_scores(VERSION, [score("b", value=2.0), score("c", value=3.0)])
        assert said == [False, True, False, True]
        assert findings.losses(["a", "b", "c", "d"], VERSION) == {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}


def detailed(name: str, value: float, alone: UnconditionalScore | None = None) -> SampleScore:
    return SampleScore(
        name, ItemStatus(), value, value, value, 1, mean_probability=0.5, min_probability=0.25, unconditional=alone
    )


def test_a_score_of_an_older_ledger_is_completed_and_not_altered(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = migrations()
    monkeypatch.setattr(ledger_module, "migrations", lambda: every[:5])
    names = ["a", "b", "c", "d"]
    with Ledger.open(path) as ledger, ledger.transaction():
        for name, code in (("a", 0), ("b", 0), ("c", 3), ("d", 0)):
            value = None if code else 1.0
            ledger.execute(
                "INSERT INTO score VALUES (?, ?, ?, ?, ?, 1, '[]', ?, 'R', 'm', false, 'fake/1')",
                (name, VERSION.digest, VERSION.chat_template_digest, value, value, code),
            )
    monkeypatch.setattr(ledger_module, "migrations", lambda: every)
    with Ledger.open(path) as ledger:
        findings = Findings(ledger)
        assert findings.unscored(names, VERSION) == [], "their losses are as good as ever"
        assert findings.unscored(names, VERSION, Parts.PROBABILITIES) == ["a", "b", "d"]
        assert findings.unscored(names, VERSION, Parts.UNCONDITIONAL) == ["a", "b", "d"]
        with ledger.transaction():
            findings.add_scores(VERSION, [detailed("a", 9.0), detailed("b", 9.0)])
        assert findings.unscored(names, VERSION, Parts.PROBABILITIES) == ["d"]
        alone = UnconditionalScore(2.0, 1, ifd=0.5, pmi=1.0)
        with ledger.transaction():
            findings.add_scores(
                VERSION, [detailed("a", 9.0, alone), score("b", BUSY), score("d", TOO_LONG)], Parts.UNCONDITIONAL
            )
        assert findings.unscored(names, VERSION, Parts.UNCONDITIONAL) == ["b"], (
            "what failed for good is not asked again"
        )
        assert findings.scores(names, VERSION) == {
            "a": ScoreRecord(1, 1.0, 1.0, 0.5, 0.25, 2.0, 0.5, 1.0),
            "b": ScoreRecord(1, 1.0, 1.0, 0.5, 0.25, None, None, None),
            "d": ScoreRecord(1, 1.0, 1.0, None, None, None, None, None),
        }
        assert findings.losses(names, VERSION) == {"a": 1.0, "b": 1.0, "c": None, "d": 1.0}
        assert findings.score_failures(names, VERSION) == {"c": "R"}


def test_a_sample_is_judged_once_it_has_all_six_ratings(path: Path) -> None:
    key = JudgeKey(VERSION.digest, VERSION.chat_template_digest, "p", "q")
    ok = [Rating(Dimension(d), Target(t), 7.0, ItemStatus(), "7") for d, t in RATINGS]
    unparseable = ItemStatus(13, "UNPARSEABLE", "no number")
    mute = [Rating(Dimension(d), Target(t), None, unparseable, "hm") for d, t in RATINGS]
    with Ledger.open(path) as ledger:
        findings = Findings(ledger)
        with ledger.transaction():
            findings.add_ratings(
                key,
                [
                    SampleJudgment("a", ItemStatus(), tuple(ok)),
                    SampleJudgment("b", ItemStatus(), tuple(ok[:5])),
                    SampleJudgment("c", TOO_LONG),
                    SampleJudgment("d", BUSY),
                    SampleJudgment("e", ItemStatus(), tuple(mute)),
                ],
            )
        assert findings.unjudged(["a", "b", "c", "d", "e", "f"], key) == ["b", "d", "f"]
        found = findings.ratings(["a", "c", "e"], key)
        assert set(found["a"].values()) == {7.0}
        assert set(found["c"].values()) == set(found["e"].values()) == {None}


def test_a_prompt_that_lost_some_of_its_answers_is_asked_again(tmp_path: Path) -> None:
    key = ResponseKey("sha256:m", "t", "p")

    def answered(name: str, count: int, status: ItemStatus | None = None) -> PromptResponses:
        made = [GeneratedResponse(f"{name} {number}", FinishReason.STOP, 1, -1.0) for number in range(count)]
        return PromptResponses(name, status or ItemStatus(), tuple(made))

    with Ledger.open(tmp_path / "ledger.duckdb") as ledger:
        beliefs = RunBook(ledger, "clear-1").beliefs
        with ledger.transaction():
            beliefs.add_responses(key, [answered("whole", 3), answered("torn", 3), answered("failed", 0, TOO_LONG)])
            ledger.execute("DELETE FROM response WHERE prompt_hash = 'torn' AND number = 2")
        assert beliefs.unanswered(["whole", "torn", "failed", "new"], key, 3) == ["torn", "new"]
        with ledger.transaction():
            beliefs.add_responses(key, [answered("torn", 3)])
        assert beliefs.unanswered(["whole", "torn", "failed"], key, 3) == []
        assert [one.number for one in beliefs.responses(["torn"], key)["torn"]] == [1, 2, 3]


def test_failures_are_counted_by_step_and_reason(tmp_path: Path) -> None:
    messages = (Message(Role.USER, "Hi"), Message(Role.ASSISTANT, "Ho"))
    name = sample_hash(messages)
    with Ledger.open(tmp_path / "ledger.duckdb") as ledger:
        book = RunBook(ledger, "middo-1")
        from burnish.coordinator.records import ModelRecord

        with book.transaction():
            book.begin("middo", {}, "0")
            book.add_samples({name: messages})
            book.add_dataset(1, [DataRow("r1", name, "source", None, "r1"), DataRow("r2", name, "source", None, "r2")])
            book.add_model(ModelRecord(0, "base", "m", VERSION.digest, None, None, None, {}))
            book.findings.add_scores(VERSION, [score(name, TOO_LONG)])
    with RunHistory.open(tmp_path) as history:
        (failure,) = history.failures(1)
        assert (failure.step, failure.reason, failure.count, failure.example) == (
            "score_pre",
            "TOO_LONG",
            1,
            "too long",
        )
        assert [r.row_id for r in history.rows(1)] == ["r1", "r2"]
        assert history.run.finished_at is None


def test_an_out_folder_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="holds no run"):
        RunHistory.open(tmp_path)
    Ledger.open(tmp_path / "ledger.duckdb").close()
    with pytest.raises(LedgerError, match="holds no run"):
        RunHistory.open(tmp_path)


def test_disk_full_is_told_from_other_trouble(path: Path) -> None:
    import duckdb

    full = ledger_module._translated(path, duckdb.IOException('Could not write file "x": No space left on device'))
    assert isinstance(full, DiskFull)
    assert not isinstance(ledger_module._translated(path, duckdb.IOException("Permission denied")), DiskFull)
