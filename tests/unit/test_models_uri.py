"""Where a run's models are published, as its options say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from burnish.cli.services import OPTIONS, resolve
from burnish.coordinator.errors import InputError
from burnish.coordinator.paths import RunPaths, is_remote
from burnish.coordinator.recipes.base import RunOptions, parse_settings
from burnish.coordinator.steps.train import _output


@pytest.mark.parametrize(
    ("uri", "remote"),
    [("s3://b/p", True), ("gs://b/p", True), ("/models/a", False), ("models/a", False), ("file:///models/a", False)],
)
def test_what_only_services_see_is_not_looked_for_here(uri: str, remote: bool) -> None:
    assert is_remote(uri) is remote


def test_a_model_s_place_says_of_which_run_it_is_and_what_it_is_made_of(tmp_path: Path) -> None:
    def place(uri: str) -> str:
        run = SimpleNamespace(
            options=RunOptions(models_uri=uri), paths=RunPaths(tmp_path), book=SimpleNamespace(run_id="middo-1")
        )
        return _output(run, 2, "0123456789abcdef")  # type: ignore[arg-type]

    assert place("") == str(tmp_path / "models" / "round-2")
    assert place("s3://bucket/runs/") == "s3://bucket/runs/middo-1/round-2-0123456789ab"
    assert place("shared") == str(Path("shared").absolute() / "middo-1" / "round-2-0123456789ab")


def test_earlier_models_are_not_removed_where_nobody_can_look() -> None:
    with pytest.raises(InputError, match="keep_models last does not go together with models_uri"):
        parse_settings(RunOptions, {"models_uri": "s3://bucket/runs", "keep_models": "last"})


def test_the_place_may_be_set_for_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = dict.fromkeys(OPTIONS)
    (tmp_path / "burnish.toml").write_text('models_uri = "s3://bucket/file"\n')
    monkeypatch.chdir(tmp_path)
    assert resolve(chosen).settings.models_uri == "s3://bucket/file"
    monkeypatch.setenv("BURNISH_MODELS_URI", "s3://bucket/environment")
    assert resolve(chosen).settings.models_uri == "s3://bucket/environment"
