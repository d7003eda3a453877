"""Builds the bundled demo data set from the hand-written texts in tools/demo_data/.

    python tools/make_demo_data.py            write client/burnish/data/*.jsonl
    python tools/make_demo_data.py --check    exit 1 if the files there differ from what would be written

The texts are written by people; this script only chooses which rows are repeated as exact duplicates, shuffles
with a fixed seed, numbers the rows and writes the truth beside them.

A source file holds blocks separated by a line `---`, under headings `== clean ==`, `== holdout ==` or
`== <flaw> ==`. A block has the fields Q (instruction), I (input), A (output), C (the correct output of a wrong
answer) and N (the note for the truth file). A field starts a line with its letter and ": " and runs to the next.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "tools" / "demo_data"
TARGET = ROOT / "client" / "burnish" / "data"

SEED = 20250821
DUPLICATES = 10
FLAWS = ("wrong_answer", "vague_prompt", "hard_prompt", "thin_topic")
FIELDS = {"Q": "instruction", "I": "input", "A": "output", "C": "correct", "N": "note"}


def parse(path: Path) -> list[dict[str, str]]:
    """The blocks of one source file, each with its `section` and its `topic` (the file's name)."""
    blocks: list[dict[str, str]] = []
    section = ""
    for part in re.split(r"^(?:---|(?===))", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
        heading = re.match(r"== (\w+) ==\n", part)
        if heading:
            section = heading.group(1)
            part = part[heading.end() :]
        if not part.strip():
            continue
        pieces = re.split(r"^([QIACN]): ", part, flags=re.MULTILINE)
        fields = {FIELDS[key]: text.strip("\n").rstrip() for key, text in zip(pieces[1::2], pieces[2::2], strict=True)}
        if section not in ("clean", "holdout", *FLAWS):
            raise ValueError(f"{path.name}: unknown section {section!r}")
        required = {"instruction", "output"}
        if section in FLAWS:
            required |= {"note"}
        if section == "wrong_answer":
            required |= {"correct"}
        allowed = required | {"input"}
        if not required <= fields.keys() <= allowed or pieces[0].strip():
            raise ValueError(
                f"{path.name}: a {section} block has the fields {sorted(fields)}, wanted {sorted(required)}:\n{part}"
            )
        blocks.append({"section": section, "topic": path.stem, "input": "", **fields})
    return blocks


def build() -> dict[str, list[dict[str, str]]]:
    """The rows of the three files, by file name."""
    blocks = [block for path in sorted(SOURCES.glob("*.txt")) for block in parse(path)]
    rng = random.Random(SEED)

    clean = [block for block in blocks if block["section"] == "clean"]
    topics = sorted({block["topic"] for block in clean})
    if len(topics) < DUPLICATES:
        raise ValueError(f"one duplicate per topic: {DUPLICATES} wanted, {len(topics)} topics")
    repeated = [
        rng.choice([block for block in clean if block["topic"] == topic]) for topic in rng.sample(topics, DUPLICATES)
    ]

    rows = [block for block in blocks if block["section"] != "holdout"] + repeated
    rng.shuffle(rows)
    holdout = [block for block in blocks if block["section"] == "holdout"]
    rng.shuffle(holdout)

    demo, truth = [], []
    first_id: dict[int, str] = {}
    for number, block in enumerate(rows, start=1):
        row_id = f"demo-{number:04d}"
        demo.append({"id": row_id, **{key: block[key] for key in ("instruction", "input", "output")}})
        if id(block) in first_id:
            original = first_id[id(block)]
            truth.append({"id": row_id, "flaw": "duplicate", "of": original, "note": f"Exact copy of {original}."})
            continue
        first_id[id(block)] = row_id
        if block["section"] == "wrong_answer":
            truth.append({"id": row_id, "flaw": "wrong_answer", "correct": block["correct"], "note": block["note"]})
        elif block["section"] in FLAWS:
            truth.append({"id": row_id, "flaw": block["section"], "note": block["note"]})

    held = [
        {"id": f"holdout-{number:04d}", **{key: block[key] for key in ("instruction", "input", "output")}}
        for number, block in enumerate(holdout, start=1)
    ]
    return {"demo.jsonl": demo, "demo_truth.jsonl": truth, "demo_holdout.jsonl": held}


def render(rows: list[dict[str, str]]) -> bytes:
    """One JSON object per line, as the data files hold them."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")


def main() -> int:
    """Writes the files, or with --check says which are out of date."""
    parser = argparse.ArgumentParser(description="Build the bundled demo data set.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    args = parser.parse_args()
    stale = []
    for name, rows in build().items():
        path, content = TARGET / name, render(rows)
        if args.check:
            if not path.is_file() or path.read_bytes() != content:
                stale.append(name)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            sys.stdout.write(f"{path.relative_to(ROOT)}: {len(rows)} rows\n")
    if stale:
        sys.stderr.write(f"out of date: {', '.join(stale)}; run: python tools/make_demo_data.py\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
