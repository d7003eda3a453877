"""docs/python.md is run as it stands, on the fake engine, in a folder with what it assumes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from burnish_services.engine.fake import write_fake_model

PAGE = (Path(__file__).parents[2] / "docs/python.md").read_text(encoding="utf-8")


def test_every_block_runs_and_the_command_goes_on_with_what_it_made(tmp_path: Path) -> None:
    write_fake_model(tmp_path / "my-model", name="python", seed=7, skill=0.5)
    rows = [{"instruction": f"Say the word number {n}", "input": "", "output": f"word {n}"} for n in range(40)]
    rows += [{**rows[n], "output": "zebra quartz " * 9} for n in range(3)]
    (tmp_path / "alpaca.json").write_text(json.dumps(rows))
    held_out = [{**row, "instruction": f"{row['instruction']} now"} for row in rows[:20]]
    (tmp_path / "held-out.json").write_text(json.dumps(held_out))
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    assert blocks[0].count('state_dir="runs/script/services"') == 1
    script = blocks[0].replace('state_dir="runs/script/services"', 'state_dir="runs/script/services", engine="fake"')
    observed = script.replace("options=RunOptions(batch_size=64)", "observer=Lines()").replace("/script", "/observed")
    said = []
    for block in (script, blocks[1], f"{blocks[2]}\n\n{observed}"):
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert re.match(r"43 rows in, \d+ out; .*models/round-2 \d\.\d+\n$", said[0])
    assert "Reading the data 43 items," in said[2]
    command = [sys.executable, "-m", "burnish", "status", "runs/script"]
    status = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert status.returncode == 0
    assert "done" in status.stdout
