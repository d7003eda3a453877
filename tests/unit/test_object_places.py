"""Places in object storage: what names one, what is inside of what, and whose keys a store is asked with."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish_services.engine.object_models import belongs_to_model
from burnish_services.engine.object_places import ObjectMalformed, ObjectPlace, is_object_uri
from burnish_services.engine.object_stores import _profile


@pytest.mark.parametrize(
    "uri",
    [
        "s3://b/../c",
        "s3://bucket/./c",
        "s3://bucket//c",
        "s3://bucket/a\0",
        "s3://id:key@bucket/a",
        "s3:///a",
        "x://b/a",
    ],
)
def test_what_names_no_place_is_refused(uri: str) -> None:
    with pytest.raises(ObjectMalformed, match="expected s3://BUCKET/PREFIX"):
        ObjectPlace.parse(uri)


def test_a_place_is_inside_of_another_by_whole_segments() -> None:
    root = ObjectPlace.parse("s3://bucket/runs/")
    assert str(root) == "s3://bucket/runs"
    inside = ("s3://bucket/runs", "s3://bucket/runs/a/b", "S3://bucket/runs/x")
    outside = ("s3://bucket", "s3://bucket/runs-2", "s3://bucket2/runs", "gs://bucket/runs", "s3://bucket/Runs")
    assert all(ObjectPlace.parse(uri).is_within(root) for uri in inside)
    assert not any(ObjectPlace.parse(uri).is_within(root) for uri in outside)
    assert ObjectPlace.parse("s3://bucket/anything").is_within(ObjectPlace.parse("s3://bucket"))
    assert [is_object_uri(uri) for uri in ("s3://x/y", "az://x", "file:///s3", "/s3", "http://s3")] == [True] * 2 + [
        False
    ] * 3


def test_of_a_model_only_data_is_fetched() -> None:
    needed = ("config.json", "model-1.safetensors", "model.safetensors.index.json", "merges.txt", "chat_template.jinja")
    others = (
        "pytorch_model.bin",
        "modeling.py",
        "model.pt",
        ".burnish-publishing.json",
        "pytorch_model.bin.index.json",
    )
    assert all(belongs_to_model(name) for name in (*needed, "tokenizer.model", "burnish.json", "LICENSE"))
    assert not any(belongs_to_model(name) for name in (*others, "weights.pkl", "run.sh", "README.md"))


def test_keys_are_found_in_a_profile(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b%c\n[other]\naws_access_key_id = d\n")
    named = {"AWS_SHARED_CREDENTIALS_FILE": str(file)}
    assert _profile(named) == {"access_key_id": "a", "secret_access_key": "b%c"}
    assert _profile({**named, "AWS_PROFILE": "other"}) == {"access_key_id": "d"}
    assert _profile({**named, "AWS_PROFILE": "none"}) == {}
    file.write_text("no file of that kind")
    assert _profile(named) == {}
