"""No path through the code loads a pickle or runs code that comes with a model: read off the source of everything that
is shipped, so that whoever adds a loader meets this."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("client/burnish", "services/burnish_services")
    for path in (ROOT / folder).rglob("*.py")
    if "api" not in path.relative_to(ROOT / folder).parts[:1]
)
# Modules that run, or may run, what they read.
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {"read_pickle", "eval", "exec", "import_module_from_file", "unsafe_load", "full_load"}


def complaints(source: str) -> Iterator[str]:
    """What in a module may run what it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"line {node.lineno}: imports {name}" for name in names if name.split(".")[0] in UNSAFE_MODULES)
        elif isinstance(node, ast.Call):
            yield from (f"line {node.lineno}: {found}" for found in _of_call(node))


def _of_call(call: ast.Call) -> Iterator[str]:
    called = ast.unparse(call.func)
    name = called.rsplit(".", 1)[-1]
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    unpacked = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg is None]
    if called in UNSAFE_CALLS or name in UNSAFE_CALLS - {"eval", "exec"}:
        yield called
    if called == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if called in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
        yield "numpy.load without allow_pickle=False"
    if given.get("trust_remote_code", "False") != "False" or given.get("allow_pickle", "False") != "False":
        yield f"{called} trusts what it reads"
    if called == "AsyncEngineArgs" and given.get("load_format") != "'safetensors'":
        yield "vLLM may load other weights than safetensors"
    if name == "from_pretrained":
        is_model = "Model" in called and "gguf_file" not in given
        wanted = {"SAFE_WEIGHTS"} if is_model else {"SAFE_WEIGHTS", "NO_CODE"}
        if called != "PeftModel.from_pretrained" and not wanted & set(unpacked):  # merging.py looks for its file
            yield f"{called} without **{' or **'.join(sorted(wanted))} of engine/untrusted.py"


@pytest.mark.parametrize(
    "bad",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "AutoModelForCausalLM.from_pretrained(path)",
        "AutoModelForCausalLM.from_pretrained(path, **NO_CODE)",
        "AutoTokenizer.from_pretrained(path, trust_remote_code=True, **NO_CODE)",
        "AsyncEngineArgs(model=path)",
        "pd.read_pickle(path)",
        "eval(text)",
    ],
)
def test_what_would_be_found(bad: str) -> None:
    assert list(complaints(bad))


@pytest.mark.parametrize(
    "good",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "model.eval()",
        "AutoModelForCausalLM.from_pretrained(path, **SAFE_WEIGHTS)",
        "AutoConfig.from_pretrained(path, **NO_CODE)",
    ],
)
def test_what_is_let_be(good: str) -> None:
    assert not list(complaints(good))


def test_nothing_that_is_shipped_loads_pickles_or_runs_code_of_models() -> None:
    assert len(SOURCES) > 200
    found = [
        f"{path.relative_to(ROOT)}, {complaint}"
        for path in SOURCES
        for complaint in complaints(path.read_text(encoding="utf-8"))
    ]
    assert not found
