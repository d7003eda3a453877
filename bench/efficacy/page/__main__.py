"""The page and the documentation's tables from a results file of the efficacy bench.

python -m bench.efficacy.page bench/results/efficacy.json --out build/efficacy/efficacy.html
python -m bench.efficacy.page bench/results/efficacy.json --markdown docs/efficacy.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench.efficacy.page.data import read
from bench.efficacy.page.markdown import put
from bench.efficacy.page.render import render


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=Path("bench/results/efficacy.json"))
    parser.add_argument("--out", type=Path, default=Path("build/efficacy/efficacy.html"), help="the page")
    parser.add_argument(
        "--markdown",
        type=Path,
        nargs="?",
        const=Path("docs/efficacy.md"),
        help="write tables between the marks of this file instead (docs/efficacy.md)",
    )
    given = parser.parse_args()
    if not given.results.is_file():
        raise SystemExit(f"{given.results} is not there; `make bench-efficacy` writes it")
    try:
        found = read(json.loads(given.results.read_text(encoding="utf-8")))
        if given.markdown is not None:
            text = put(given.markdown.read_text(encoding="utf-8"), found)
    except (ValueError, OSError) as error:
        raise SystemExit(f"{given.results}: {error}") from error
    if given.markdown is not None:
        given.markdown.write_text(text, encoding="utf-8")
        print(given.markdown)
        return
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(render(found), encoding="utf-8")
    print(given.out)


if __name__ == "__main__":
    main()
