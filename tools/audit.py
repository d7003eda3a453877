"""What Burnish installs: are the pins whole, needed and installed, and may their licences be lived with?

    python -m tools.audit [--offline]

Prints what is wrong and ends with 1 where something is. `make audit` runs it, and then looks for known vulnerabilities
with pip-audit, in an environment of its own, where its data can be had; `--offline` leaves that out.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("sdk.txt", "cpu.txt", "dev.txt")
PIP_AUDIT = "pip-audit==2.10.1"

# Permissive licences, and such whose copyleft ends at the files, or the library, that they cover.
ALLOWED = frozenset(
    {
        *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0"),
        *("CNRI-Python", "ISC", "LGPL-2.1-only", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Unlicense"),
    }
)
# What a package says in words of its own, or by a trove classifier.
_WORDS = {
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
}
# Whose metadata does not say it, or who are let in all the same.
EXCEPTIONS = {
    "setuptools": "MIT, by its licence file",
    "oss-harmony": "Apache-2.0, by its licence file; vLLM asks for it",
    "promql-parser": "MIT, by its licence file",
    "supervisor": "BSD-like (repoze); what vLLM asks for asks for it",
    "intel-openmp": "Intel's licence, which lets it be passed on unchanged; vLLM's build for CPUs asks for it",
    "intel-cmplr-lib-ur": "Intel's licence, which lets it be passed on unchanged; intel-openmp asks for it",
}
# Not found by what packages say that they need, in this environment; see requirements/lock.py for the reasons.
NEEDED_ELSEWHERE = {"tzdata": "chosen with the others; nothing asks for it on Linux"}
# What packages ask for, and requirements/lock.py leaves out.
LEFT_OUT = frozenset({"torchvision", "torchaudio", "torchcodec", "triton"})

Pins = Mapping[str, str]


def read_pins(path: Path) -> tuple[dict[str, str], list[str]]:
    """The pins of a lock, by canonical name, and what is wrong with its lines."""
    pins: dict[str, str] = {}
    wrong: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = re.fullmatch(r"([\w.-]+)==([\w.!-]+)", line)
        if found is None:
            wrong.append(f"{path.name}, line {number}: {line!r} is no pin; expected name==version")
        elif canonicalize_name(found[1]) in pins:
            wrong.append(f"{path.name}, line {number}: {found[1]} is pinned twice")
        else:
            pins[canonicalize_name(found[1])] = found[2]
    return pins, wrong


def contradictions(locks: Mapping[str, Pins]) -> Iterator[str]:
    """Packages that two locks pin to different versions."""
    for name in sorted({name for pins in locks.values() for name in pins}):
        versions = {lock: pins[name] for lock, pins in locks.items() if name in pins}
        if len(set(versions.values())) > 1:
            yield f"{name} is pinned to {', '.join(f'{v} in {lock}' for lock, v in versions.items())}"


def not_installed(pins: Pins) -> Iterator[str]:
    """Pins that this environment does not hold."""
    for name, version in sorted(pins.items()):
        try:
            found = metadata.version(name).split("+")[0]  # a local suffix names a build, not a release
        except metadata.PackageNotFoundError:
            yield f"{name}=={version} is not installed; run make setup"
            continue
        if found != version:
            yield f"{name} is installed as {found}, pinned to {version}; run make setup"


def declared(project: Mapping[str, object], extras: Iterable[str]) -> list[Requirement]:
    """What pyproject.toml asks for, in itself and in its extras, references from extra to extra followed."""
    wanted = [Requirement(str(line)) for line in _list(project["dependencies"])]
    optional = project["optional-dependencies"]
    assert isinstance(optional, dict)
    for extra in extras:
        for line in _list(optional[extra]):
            one = Requirement(str(line))
            wanted += declared({**project, "dependencies": []}, one.extras) if one.name == "burnish" else [one]
    return wanted


def needed(wanted: Iterable[Requirement]) -> tuple[set[str], list[str]]:
    """Names of everything that is needed in turn, and what asks for a version other than the one installed."""
    found: set[tuple[str, frozenset[str]]] = set()
    wrong: list[str] = []
    left = [(one, "pyproject.toml") for one in wanted]
    while left:
        one, asker = left.pop()
        name = canonicalize_name(one.name)
        key = (name, frozenset(one.extras))
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name not in LEFT_OUT:
                wrong.append(f"{asker} asks for {one}, which is not installed")
            continue
        if not one.specifier.contains(version, prereleases=True):
            wrong.append(f"{asker} asks for {one}, and {version} is installed")
        if key in found:
            continue
        found.add(key)
        for line in metadata.requires(name) or []:
            next_one = Requirement(line)
            environments = [{"extra": extra} for extra in ("", *one.extras)]
            if next_one.marker is None or any(next_one.marker.evaluate(each) for each in environments):
                left.append((next_one, name))
    return {name for name, _ in found}, wrong


def license_of(name: str) -> str:
    """A package's licence, as an SPDX expression where that can be told, else in the package's words."""
    about = metadata.metadata(name)
    if about.get("License-Expression"):
        return str(about["License-Expression"])
    classifiers = [
        line.rsplit(" :: ", 1)[-1] for line in about.get_all("Classifier") or [] if line.startswith("License")
    ]
    words = [word for word in classifiers if word.lower() in _WORDS]
    if words:
        return " OR ".join(_WORDS[word.lower()] for word in words)
    said = str(about.get("License") or "").strip().split("\n")[0]
    return _WORDS.get(said.lower(), said)


def is_allowed(expression: str) -> bool:
    """Whether an SPDX expression of AND and OR without parentheses can be satisfied by allowed licences."""
    terms = [term.strip() for term in expression.split(" AND ")]
    return all(any(choice.strip() in ALLOWED for choice in term.split(" OR ")) for term in terms)


def licences(names: Iterable[str]) -> Iterator[str]:
    """Packages whose licence is not allowed, and exceptions that are none."""
    for name in sorted(names):
        try:
            found = license_of(name)
        except metadata.PackageNotFoundError:
            continue  # said elsewhere
        if is_allowed(found) == (name in EXCEPTIONS):
            if name in EXCEPTIONS:
                yield f"{name} needs no exception: its licence is {found}"
            else:
                yield f"{name} has the licence {found[:80]!r}; expected one of {', '.join(sorted(ALLOWED))}"


def offline() -> list[str]:
    """Everything that is wrong, as far as this machine knows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locks: dict[str, Pins] = {}
    wrong: list[str] = []
    for lock in LOCKS:
        locks[lock], bad_lines = read_pins(ROOT / "requirements" / lock)
        wrong += bad_lines
    pins = {name: version for pins in locks.values() for name, version in pins.items()}
    wanted = declared(project, ["cpu", "dev"])
    names, disagreements = needed(wanted)
    wrong += [*contradictions(locks), *not_installed(pins), *disagreements, *licences(pins)]
    missing = sorted({canonicalize_name(one.name) for one in wanted} - set(pins))
    wrong += [f"pyproject.toml asks for {name}, which no lock pins; run make lock" for name in missing]
    wrong += [
        f"{name} is needed, and no lock pins it; run make lock" for name in sorted(names - set(pins) - set(missing))
    ]
    wrong += [f"{name} is pinned, and nothing needs it" for name in sorted(set(pins) - names - set(NEEDED_ELSEWHERE))]
    return wrong


def vulnerabilities() -> tuple[str, bool]:
    """What pip-audit says of the pins, or why it could not; and whether that is good."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PIP_AUDIT]
        if subprocess.run(pip, check=False, capture_output=True).returncode:
            return _unchecked(f"{PIP_AUDIT} could not be installed"), True
        files = [argument for lock in LOCKS for argument in ("--requirement", ROOT / "requirements" / lock)]
        how = ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--format", "json"]
        command = [python, "-m", "pip_audit", *how, *files]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    return judged(done.stdout, done.stderr)


def judged(report: str, errors: str) -> tuple[str, bool]:
    """What a report of pip-audit, in JSON, comes to, and whether that is good. Packages that it found no data for count
    as not checked, which pip-audit itself passes over."""
    try:
        found = json.loads(report)["dependencies"]
    except ValueError:
        last = (errors.strip().splitlines() or ["it said nothing"])[-1]
        return _unchecked(f"its data could not be had ({last[:300]})"), True
    checked = [one for one in found if "skip_reason" not in one]
    if not checked:
        return _unchecked(f"it found data for none of {len(found)} pins"), True
    bad = [
        f"{one['name']}=={one['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'none yet'}"
        for one in checked
        for flaw in one["vulns"]
    ]
    heads = f"{len(checked)} of {len(found)} pins checked, {len(bad)} known vulnerabilities"
    return "\n".join([heads, *sorted(set(bad))]), not bad


def _unchecked(why: str) -> str:
    return f"{why}: vulnerabilities NOT checked, only licences and pins"


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description="Check the pins of requirements/.")
    parser.add_argument("--offline", action="store_true", help="licences and pins only")
    without_network = parser.parse_args().offline
    wrong = offline()
    sys.stdout.write("".join(f"{line}\n" for line in wrong) or "licences and pins: nothing wrong\n")
    good = not wrong
    if not without_network:
        said, is_good = vulnerabilities()
        sys.stdout.write(f"pip-audit: {said}\n")
        good = good and is_good
    return 0 if good else 1


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


if __name__ == "__main__":
    sys.exit(main())
