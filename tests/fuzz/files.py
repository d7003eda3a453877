"""Many files for one reader, in a process of its own: one that a reader brings down, or that takes too much memory, is
found in the folder that is named first.

    python -m tests.fuzz.files READER COUNT SEED
"""

from __future__ import annotations

import logging
import resource
import sys
import tempfile
from pathlib import Path

import psutil

from tests.fuzz.file_fuzzing import fuzz
from tests.fuzz.readers import READERS

_MOST_MEMORY = 3 << 30  # bytes of address space more than at the start; the files have some kilobytes


def main() -> int:
    """See the module. Ends with 1 where something is wrong."""
    name, count, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    reader = next(reader for reader in READERS if reader.name == name)
    logging.disable()  # what is left out line by line is told there
    folder = Path(tempfile.mkdtemp(prefix="burnish-fuzz-file-"))
    print(f"{name}: last file in {folder}", flush=True)
    limit = psutil.Process().memory_info().vms + _MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    taken, wrong = fuzz(reader, folder, count, number)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(wrong or f"{name}: {count:,} files, {taken:,} taken, the others refused by name; at most {peak} MiB")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
