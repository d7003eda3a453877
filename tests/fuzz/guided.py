"""Files for one reader, changed in the direction of code that none has reached yet: by atheris, where it is installed.

python -m tests.fuzz.guided READER COUNT SEED
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["burnish", "burnish_services"]):
    from tests.fuzz.readers import READERS


def main() -> None:
    """See the module. Ends with another code than 0 where something is wrong; the file is named then."""
    name, count, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    reader = next(reader for reader in READERS if reader.name == name)
    logging.disable()  # what is left out line by line is told there
    folder = Path(tempfile.mkdtemp(prefix="burnish-fuzz-file-"))
    path = reader.prepare(folder)
    corpus = folder / "corpus"
    corpus.mkdir()
    for index, seed in enumerate(reader.seeds):
        (corpus / str(index)).write_bytes(seed)

    def once(content: bytes) -> None:
        reader.check(path, content)

    limits = [f"-runs={count}", f"-seed={number}", "-timeout=60", "-rss_limit_mb=3072", "-max_len=16384"]
    atheris.Setup([sys.argv[0], *limits, "-verbosity=0", f"-artifact_prefix={folder}/", str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
