"""Flags over environment over burnish.toml over defaults; unknown keys are errors that name their source."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish._errors import SettingsError
from burnish._settings import load_settings


@pytest.fixture(autouse=True)
def _nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(__import__("os").environ):
        if name.startswith("BURNISH_"):
            monkeypatch.delenv(name)


def write(text: str, name: str = "burnish.toml") -> Path:
    Path(name).write_text(text)
    return Path(name)


def test_defaults() -> None:
    settings = load_settings()
    assert settings.endpoints.missing == ("scoring", "embedding", "rewriting", "training")
    assert settings.engine is None
    assert settings.client_options.max_in_flight == 4


def test_each_source_overrides_the_one_below(monkeypatch: pytest.MonkeyPatch) -> None:
    write('scoring_endpoint = "file:1"\nembedding_endpoint = "file:2"\nrewriting_endpoint = "file:3"\n')
    monkeypatch.setenv("BURNISH_SCORING_ENDPOINT", "env:1")
    monkeypatch.setenv("BURNISH_EMBEDDING_ENDPOINT", "env:2")
    settings = load_settings({"scoring_endpoint": "flag:1", "embedding_endpoint": None})
    assert settings.endpoints.scoring == "flag:1"
    assert settings.endpoints.embedding == "env:2"
    assert settings.endpoints.rewriting == "file:3"


def test_numbers_come_out_of_the_environment_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_MAX_IN_FLIGHT", "9")
    monkeypatch.setenv("BURNISH_REQUEST_TIMEOUT", "2.5")
    options = load_settings().client_options
    assert (options.max_in_flight, options.request_timeout) == (9, 2.5)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_MAX_IN_FLIGHT", "")
    assert load_settings().max_in_flight == 4


def test_engine_options_follow_the_settings() -> None:
    options = load_settings({"dtype": "float32", "memory_mib": 64, "compile": True}).engine_options
    assert options.arguments() == ["--dtype", "float32", "--compile", "--memory-mib", "64"]


def test_an_unknown_key_in_the_file_is_an_error_with_a_guess() -> None:
    write('scoring_endpiont = "x:1"\n')
    with pytest.raises(SettingsError, match=r"burnish.toml: scoring_endpiont is no setting .* mean scoring_endpoint\?"):
        load_settings()


def test_a_table_in_the_file_is_an_error() -> None:
    write('[scoring]\nendpoint = "x:1"\n')
    with pytest.raises(SettingsError, match=r"burnish.toml: scoring is no setting of Burnish"):
        load_settings()


def test_an_unknown_flag_is_an_error() -> None:
    with pytest.raises(SettingsError, match="--speed is no setting of Burnish"):
        load_settings({"speed": 1})


@pytest.mark.parametrize("name", ["BURNISH_SCORING_ENDPIONT", "BURNISH_MAX_INFLIGHT", "BURNISH_FOO_ENDPOINT"])
def test_a_misspelled_variable_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match=f"environment variable {name} is unknown; did you mean BURNISH_"):
        load_settings()


@pytest.mark.parametrize("name", ["BURNISH_SERVER_ENGINE", "BURNISH_SCORING_MAX_ITEMS", "BURNISH_TRAINING_DEVICE"])
def test_the_servers_variables_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    load_settings()


def test_a_wrong_value_names_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    write("connect_timeout = -1\n")
    monkeypatch.setenv("BURNISH_MAX_IN_FLIGHT", "many")
    with pytest.raises(SettingsError) as caught:
        load_settings({"engine": "llama"})
    lines = str(caught.value).splitlines()
    assert [line.split(" is ")[0] for line in sorted(lines)] == [
        "--engine",
        "BURNISH_MAX_IN_FLIGHT",
        "burnish.toml: connect_timeout",
    ]


def test_a_wrong_address_is_an_error() -> None:
    with pytest.raises(SettingsError, match="expected host:port"):
        load_settings({"scoring_endpoint": "somewhere"})


def test_another_file_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    write("max_in_flight = 1\n")
    write("max_in_flight = 2\n", "other.toml")
    assert load_settings(config=Path("other.toml")).max_in_flight == 2
    monkeypatch.setenv("BURNISH_CONFIG", "other.toml")
    assert load_settings().max_in_flight == 2


def test_a_named_file_must_exist() -> None:
    with pytest.raises(SettingsError, match=r"no configuration file at none.toml"):
        load_settings(config=Path("none.toml"))


def test_a_file_that_is_no_toml_is_an_error() -> None:
    write("max_in_flight = = 2\n")
    with pytest.raises(SettingsError, match=r"burnish.toml is not valid TOML"):
        load_settings()
