"""Reading training data as it comes, and writing rows back as they came.

Owns: finding files (`files`), what a record means (`shapes`), one whole data set with ids and problems (`dataset`).
Does not own: target formats of other tools (`export.py`), storage (`ledger.py`).
"""

from __future__ import annotations

from burnish.coordinator.formats.dataset import DataReader, IdKind, LoadedData, SourceInfo, SourceRow, glance, load
from burnish.coordinator.formats.files import Container, SourceFile, find_files
from burnish.coordinator.formats.shapes import Columns, Layout, RowProblem, rewritten_record, to_messages

__all__ = [
    "Columns",
    "Container",
    "DataReader",
    "IdKind",
    "Layout",
    "LoadedData",
    "RowProblem",
    "SourceFile",
    "SourceInfo",
    "SourceRow",
    "find_files",
    "glance",
    "load",
    "rewritten_record",
    "to_messages",
]
