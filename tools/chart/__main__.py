"""`make chart`: writes what the chart has from elsewhere, lints it, and writes anew what its profiles come to."""

from __future__ import annotations

import sys

from tools.chart.copies import written
from tools.chart.rendering import PROFILES, problems, profile


def main() -> int:
    """Writes, then lints; 1 where Helm finds something."""
    for path, text in written(golden_too=False).items():
        path.write_text(text, encoding="utf-8")
    found = {name: problems(profile(name)) for name in PROFILES}
    for name, complaints in found.items():
        sys.stderr.write("".join(f"{name}: {complaint}\n" for complaint in complaints))
    if any(found.values()):
        return 1
    for path, text in written(golden_too=True).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
