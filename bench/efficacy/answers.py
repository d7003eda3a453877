"""What models answer to held-out rows, greedily: asked for once, kept as lines of JSON in the cell's folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.efficacy.cell import Cell
from bench.efficacy.scores import SCORES
from burnish import AsyncClient, Message, ModelRef, Prompt, Role, Sample, Sampling
from burnish.coordinator.content import digest_of

_BATCH = 16  # answers that a kill may cost


class Unanswered(Exception):
    """Rows may be answered when they are asked for again; the message is for people."""


def samples(path: Path) -> Iterator[Sample]:
    """The rows of a file of this bench."""
    with path.open(encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            turns = (Message(Role(turn["role"]), turn["content"]) for turn in record["messages"])
            yield Sample(record["id"], tuple(turns))


def asked(cell: Cell) -> list[Sample]:
    """The held-out rows that are answered; none where the task's answers cannot be scored."""
    return list(samples(cell.files.held_out))[: cell.score_rows] if cell.task in SCORES else []


async def answer(cell: Cell, client: AsyncClient, model: ModelRef) -> None:
    """Has the model answer what it has not answered yet. A row that cannot be answered has the empty answer. Raises
    Unanswered where one could be, another time."""
    known = answered(cell, model.digest or "")
    missing = [row for row in asked(cell) if row.id not in known]
    if not missing:
        return
    path = _file(cell, model.digest or "")
    path.parent.mkdir(exist_ok=True)
    sampling = Sampling(temperature=0.0, top_p=1.0, top_k=0, max_tokens=SCORES[cell.task].max_tokens)
    for start in range(0, len(missing), _BATCH):
        part = missing[start : start + _BATCH]
        prompts = [Prompt(row.id, row.messages[:-1]) for row in part]
        reply = await client.rewriting.respond(prompts, model=model, sampling=sampling)
        ended = [one for one in reply.results if not one.status.retryable]
        said = {one.prompt_id: one.responses[0].text if one.responses else "" for one in ended}
        with path.open("a", encoding="utf-8") as stream:
            # The line break comes first: what a kill cut off costs no answer but its own.
            stream.writelines("\n" + json.dumps({"id": name, "text": text}) for name, text in said.items())
        if len(ended) < len(part):
            trouble = next(one.status for one in reply.results if one.status.retryable)
            raise Unanswered(f"{len(part) - len(ended)} held-out rows got no answer ({trouble.message}); run it again")


def answered(cell: Cell, digest: str) -> dict[str, str]:
    """What the model of that digest has answered so far, by row. A line that a kill cut off is not there."""
    path = _file(cell, digest)
    found = {}
    # Not splitlines, here and wherever lines of JSON are read: it breaks at characters that may stand in a text.
    for line in path.read_text(encoding="utf-8").split("\n") if path.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        found[record["id"]] = record["text"]
    return found


def scored(cell: Cell, digest: str, rows: Sequence[Sample]) -> list[float] | None:
    """The score of each answer to these rows, in [0, 1]; None where there are none, or some are missing."""
    said = answered(cell, digest)
    if not rows or any(row.id not in said for row in rows):
        return None
    return [SCORES[cell.task].of(said[row.id], row.messages[-1].content) for row in rows]


def _file(cell: Cell, digest: str) -> Path:
    most = SCORES[cell.task].max_tokens if cell.task in SCORES else 0
    return cell.answers / f"{digest_of([digest, most])[:16]}.jsonl"
