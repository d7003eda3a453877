"""Every setting is documented, and the page is made from the settings as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from burnish_services.__main__ import build_parser
from burnish_services.runtime.config import ServerSettings
from tools.settings_reference import SECTIONS, TARGET, Section, reference, variable

ROOT = Path(__file__).parents[2]


def test_the_page_is_fresh() -> None:
    assert TARGET.read_text(encoding="utf-8") == reference(), "docs/settings.md is stale; run make docs"


@pytest.mark.parametrize("section", SECTIONS, ids=[one.heading for one in SECTIONS])
def test_every_setting_says_what_it_does_and_stands_there_once(section: Section) -> None:
    page = TARGET.read_text(encoding="utf-8")
    for name, field in section.settings.model_fields.items():
        assert field.description, name
        assert page.count(f"| `{variable(section.settings, name)}` |") == 1


def test_every_class_of_settings_is_there() -> None:
    sources = [path for folder in ("client", "services") for path in (ROOT / folder).rglob("*.py")]
    classes = {
        name
        for path in sources
        for name in re.findall(
            r"^class (\w+)\((?:BaseSettings|EnvironmentSettings)\):", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    # training.md has the few of a follower.
    assert classes == {one.settings.__name__ for one in SECTIONS} | {"EnvironmentSettings", "FollowerSettings"}


def test_every_setting_of_a_server_is_an_option() -> None:
    options = set(re.findall(r"^  (--[a-z-]+)", build_parser().format_help(), re.MULTILINE)) - {"--version"}
    assert options == {f"--{name.replace('_', '-')}" for name in ServerSettings.model_fields}
