"""docs/clients.md shows what the examples have, and names what they are made with; tests/clients runs them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import google.rpc
import pytest

from burnish._channel import DEFAULT_DEADLINES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
TYPESCRIPT = ROOT / "examples" / "clients" / "typescript"
SHOWN = re.findall(r"^\[(examples/[^\]]+)\]\(\.\./\1\):\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]


@pytest.mark.parametrize(("path", "text"), SHOWN, ids=[path for path, _ in SHOWN])
def test_what_is_shown_stands_in_the_example(path: str, text: str) -> None:
    assert text in (ROOT / path).read_text(encoding="utf-8")


def test_every_block_is_an_example_or_a_command() -> None:
    languages = {path.split("/")[2] for path, _ in SHOWN}
    assert languages == {"go", "grpcurl", "python", "typescript"}
    blocks = len(re.findall(r"^```\w+$", PAGE, re.MULTILINE))
    others = [line for line in COMMANDS if line.startswith(("grpcurl ", "npm ", "npx ", "go ", "buf ", "cd "))]
    assert blocks == len(SHOWN) + 3
    assert len(others) == 9


def test_the_packages_are_those_that_are_pinned() -> None:
    package = json.loads((TYPESCRIPT / "package.json").read_text())
    pinned = package["dependencies"] | package["devDependencies"]
    installed = [line.split()[2:] for line in COMMANDS if line.startswith("npm install")]
    assert {word for words in installed for word in words if not word.startswith("--")} == set(pinned)
    named = re.findall(r"^\| (`.*) \| ([\d.]+) \|$", PAGE, re.MULTILINE)
    tried = {name: version for names, version in named for name in re.findall(r"`([^`]+)`", names)}
    assert {name: tried[name] for name in pinned if name in tried} == {n: v for n, v in pinned.items() if n in tried}
    assert set(pinned) - set(tried) == {"@types/node"}
    go = (ROOT / "tools" / "clients" / "go.sh").read_text()
    assert f"| Go | {re.search('go_version=(.*)', go)[1]} |" in PAGE  # type: ignore[index]


def test_templates_are_where_the_page_and_the_scripts_say() -> None:
    scripts = "".join(path.read_text() for path in (ROOT / "tools" / "clients").glob("*.sh"))
    for language in ("go", "typescript"):
        template = f"examples/clients/{language}/buf.gen.yaml"
        assert (ROOT / template).is_file()
        assert f"buf generate --template {template} --output DIR" in PAGE
        assert f'examples="examples/clients/{language}"' in scripts or f"examples/clients/{language}" in scripts


def test_numbers_are_read_as_the_tests_read_them() -> None:
    (expression,) = re.findall(r"`(np\.frombuffer\(.*?\))`", PAGE)
    assert expression in (ROOT / "tests" / "clients" / "test_clients.py").read_text()


def test_deadlines_are_the_sdks() -> None:
    assert "30 s for `GetInfo`, 15 minutes for `LoadModel`, 30 for scores and vectors, an hour for judging" in PAGE
    seconds = [DEFAULT_DEADLINES[name] for name in ("GetInfo", "LoadModel", "ScoreSamples", "EmbedSamples")]
    assert seconds == [30, 15 * 60, 30 * 60, 30 * 60]
    assert {DEFAULT_DEADLINES[name] for name in ("JudgeSamples", "RewriteSamples", "CreateRun")} == {3600}


def test_the_details_of_errors_are_googles() -> None:
    ours = (TYPESCRIPT / "googleapis" / "google" / "rpc" / "error_details.proto").read_text()
    (folder,) = google.rpc.__path__
    messages = re.compile(r"^message (\w+) \{.*?^\}$", re.MULTILINE | re.DOTALL)
    theirs = {found[1]: found[0] for found in messages.finditer((Path(folder) / "error_details.proto").read_text())}
    for name in ("ErrorInfo", "RetryInfo", "BadRequest"):
        assert theirs[name] in ours


def test_the_lock_names_no_registry() -> None:
    lock = (TYPESCRIPT / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert all("integrity" in entry for path, entry in json.loads(lock)["packages"].items() if path)
