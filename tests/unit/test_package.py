"""The package as installed and as imported is the one that pyproject.toml describes."""

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import burnish

PROJECT = tomllib.loads(Path(__file__, "../../../pyproject.toml").resolve().read_text())["project"]


def test_one_version_everywhere():
    assert burnish.__version__ == PROJECT["version"]
    assert importlib.metadata.version("burnish") == PROJECT["version"]


def test_importing_the_client_brings_no_model_runtime():
    program = "import sys, burnish; print(*{'torch', 'transformers', 'vllm', 'lancedb'} & set(sys.modules))"
    heavy = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert heavy.stdout.split() == []
