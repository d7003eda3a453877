"""The story of a row, from a ledger that is written by hand: nothing of it needs a service."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from burnish import (
    Choice,
    ConfidenceEstimate,
    FinishReason,
    GeneratedResponse,
    ItemStatus,
    Message,
    Preference,
    PromptResponses,
    Role,
    SampledAnswer,
    Winner,
)
from burnish.cli.explain import told
from burnish.coordinator.beliefs import ConfidenceKey, PreferenceKey, ResponseKey
from burnish.coordinator.book import RunBook
from burnish.coordinator.content import sample_hash
from burnish.coordinator.curation import CandidateRecord
from burnish.coordinator.errors import InputError
from burnish.coordinator.history import RunHistory
from burnish.coordinator.ledger import Ledger
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.thresholds import Threshold
from burnish.coordinator.policy.verdict import Action, Verdict
from burnish.coordinator.story import story_of

BASE, TUNED = "sha256:" + "b" * 64, "sha256:" + "d" * 64
CONFIDENCE = ConfidenceKey(BASE, "t", "p", "q")
COMPARE = PreferenceKey(BASE, "t", "p")
RESPONSES = ResponseKey(TUNED, "t", "q")
RECORDS = [
    {"id": 1, "q": "2+2?", "output": "Four", "truth": "four"},
    {"id": 2, "q": "3*3?", "output": "Eight", "truth": "nine"},
    {"id": 3, "q": "12/2?", "output": "six", "truth": "Six."},
]


def conversation(question: str, response: str) -> tuple[Message, ...]:
    return Message(Role.USER, question), Message(Role.ASSISTANT, response)


TEXTS = [conversation(str(r["q"]), str(r["output"])) for r in RECORDS]
NINE = conversation("3*3?", "Nine")


def finished_run(folder: Path) -> RunHistory:
    """A run of CLEAR that kept row 1, corrected row 2 and dropped row 3."""
    hashes = [sample_hash(text) for text in TEXTS]
    nine = sample_hash(NINE)
    ok = ItemStatus()
    with Ledger.open(folder / "ledger.duckdb") as ledger:
        book = RunBook(ledger, "clear-1")
        with book.transaction():
            book.begin("clear", {"settings": {}, "options": {}}, "0")
            book.set_source({"ids": "number"})
            book.add_source_rows(0, [json.dumps(record) for record in RECORDS])
            book.add_samples(dict(zip([*hashes, nine], [*TEXTS, NINE], strict=True)))
            rows = [DataRow(str(i + 1), h, "source", None, str(i + 1)) for i, h in enumerate(hashes)]
            book.add_dataset(1, rows)
            for place, (name, key, digest) in enumerate(
                [("confidence", CONFIDENCE, BASE), ("propose", RESPONSES, TUNED), ("compare", COMPARE, BASE)]
            ):
                book.begin_step(1, place, name)
                detail = {
                    "key": {name: getattr(key, name) for name in key.__slots__},
                    "model": {"uri": "/m/" + name, "digest": digest},
                }
                book.plan_step(1, name, total=3, done=3, reused=0, detail=detail)
                book.end_step(1, name, "done", 1.0)
            verdicts = tuple(Choice((0.5, 0.25, 0.25), 0.75) for _ in range(6))
            said = (
                SampledAnswer("9", "3*3. Answer: 9", ok, False, 0.0, 0.0),
                SampledAnswer("", "who knows", ItemStatus(3, "UNPARSEABLE", "no answer"), None, None, None),
            )
            book.beliefs.add_estimates(
                CONFIDENCE,
                [ConfidenceEstimate(h, ok, 0.4, 0.0, 0.6, 0.75, verdicts, said, 1.0, 0.5, 0.1) for h in hashes],
            )
            generated = GeneratedResponse(
                "Nine", FinishReason.STOP, 2, -0.5, np.array([5, 6], np.int32), np.array([-0.25, -0.75], np.float32)
            )
            book.beliefs.add_responses(RESPONSES, [PromptResponses("prompt", ok, (generated,))])
            book.curation.add_candidates(
                1, [CandidateRecord("2", 1, nine, ""), CandidateRecord("3", 1, None, "TOO_LONG")]
            )
            orders = Choice((0.1, 0.8, 0.1), 0.9), Choice((0.05, 0.9, 0.05), 0.9)
            book.beliefs.add_preferences(
                COMPARE, [(hashes[1], nine)], [Preference("x", ok, 0.9, Winner.SECOND, orders, False, 0.0, False)]
            )
            book.add_thresholds(1, [Threshold("low_confidence", "confidence", 0.5, 0.1, None, 0.5, 0.5, 0, 3, 0)])
            book.add_decisions(
                1,
                [
                    Verdict("1", (Action.KEEP,), {"confidence": 0.6}, ("Passed.",)),
                    Verdict("2", (Action.CORRECT,), {"confidence": 0.4}, ("Wins.",), (nine,), ("low_confidence",)),
                    Verdict("3", (Action.DROP,), {"confidence": 0.3}, ("Failed.",), axes=("low_confidence",)),
                ],
            )
            book.add_dataset(2, [rows[0], DataRow("2", nine, "correct", None, "2")])
            book.finish()
    return RunHistory.open(folder)


def test_a_corrected_row_tells_who_did_what(tmp_path: Path) -> None:
    with finished_run(tmp_path) as history:
        story = story_of(history, "2")
        (said,) = history._ledger.select("SELECT token_ids, logprobs FROM response")
    assert said == ([5, 6], [-0.25, -0.75]), "kept for later use"
    (one,) = story.rounds
    assert [(w.uri, w.digest) for w in one.workers] == [
        ("/m/confidence", BASE),
        ("/m/propose", TUNED),
        ("/m/compare", BASE),
    ]
    assert one.evidence is not None
    assert [a.reply for a in one.evidence.answers] == ["", "who knows"], "what could be read needs no reply"
    assert story.final == NINE
    text = "\n".join(told(story))
    for part in (
        f"/m/propose ({TUNED[:19]}) proposed candidates.",
        "confidence 0.4000, line at 0.5000",
        "correct 0.500, incorrect 0.250, not sure 0.250; the letters had 0.750",
        "Sampled answer 1, similarity 0.000: 9",
        "Sampled answer 2 could not be read (UNPARSEABLE): who knows",
        "Candidate 1: Nine",
        "With the candidate in front: response 0.050, candidate 0.900, tie 0.050",
        "P(candidate better) 0.88",
        "Decision: correct.",
        "In the newest data set:\n  user: 3*3?\n  assistant: Nine",
    ):
        assert part in text, part


def test_rows_that_stay_or_go_say_so(tmp_path: Path) -> None:
    with finished_run(tmp_path) as history:
        kept, dropped = ("\n".join(told(story_of(history, name))) for name in ("1", "3"))
        with pytest.raises(InputError, match=r"no row '9'; ids are like 1, 2, 3"):
            story_of(history, "9")
    assert kept.endswith("It is in the newest data set as it was.")
    assert "proposed" not in kept, "nothing was proposed for it"
    assert "Not compared: TOO_LONG." in dropped
    assert dropped.endswith("It is not in the newest data set.")
