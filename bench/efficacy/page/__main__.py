"""The page and the documentation's tables from results files of the efficacy bench.

python -m bench.efficacy.page bench/results/efficacy.json --out build/efficacy/efficacy.html
python -m bench.efficacy.page FIRST.json SECOND.json --markdown docs/efficacy.md
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.efficacy.merge import merged
from bench.efficacy.page.data import read
from bench.efficacy.page.files import read_files, write_page
from bench.efficacy.page.markdown import put


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "results",
        type=Path,
        nargs="*",
        default=[Path("bench/results/efficacy.json")],
        help="one, or several: of other tasks, shares of noise or seeds, or of other arms of the same cells",
    )
    parser.add_argument("--out", type=Path, default=Path("build/efficacy/efficacy.html"), help="the page")
    parser.add_argument(
        "--markdown",
        type=Path,
        nargs="?",
        const=Path("docs/efficacy.md"),
        help="write tables between the marks of this file instead (docs/efficacy.md)",
    )
    given = parser.parse_args()
    try:
        found = read(merged(read_files(given.results)))
    except ValueError as error:
        raise SystemExit(f"{', '.join(map(str, given.results))}: {error}") from error
    if given.markdown is None:
        write_page(found, given.out)
        print(given.out)
        return
    try:
        text = put(given.markdown.read_text(encoding="utf-8"), found)
    except (ValueError, OSError) as error:
        raise SystemExit(f"{given.markdown}: {error}") from error
    given.markdown.write_text(text, encoding="utf-8")
    print(given.markdown)


if __name__ == "__main__":
    main()
