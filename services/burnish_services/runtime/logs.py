"""How the server logs: one line per record on standard error, as `key=value` text or as JSON.

What a record says beyond its message stands in `extra`. Sample text is never logged above DEBUG.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

_FORMATTED = {"message", "asctime", "taskName"}


def configure(level: str, form: str) -> None:
    """Sends all records of `level` and above to standard error; `form` is `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("burnish_services").setLevel(level.upper())


def _extras(record: logging.LogRecord) -> dict[str, object]:
    # Compared with a record of this moment: vLLM has a factory of its own, which adds fields to everyone's records.
    standard = vars(logging.makeLogRecord({})).keys() | _FORMATTED
    return {key: value for key, value in vars(record).items() if key not in standard}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """`2026-11-05T10:00:00.000Z INFO call method=ScoringService/GetInfo code=OK`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback after it where there is one."""
        pairs = "".join(f" {key}={_quoted(value)}" for key, value in _extras(record).items())
        line = f"{_time(record)} {record.levelname} {record.getMessage()}{pairs}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line, with `time`, `level`, `logger`, `message` and the extras."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback is in its `traceback`."""
        fields: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False)


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c.isspace() or c in '"=' for c in text) else text
