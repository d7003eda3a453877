"""How the server logs: one line per record on standard error, as `key=value` text or as JSON.

What a record says beyond its message stands in `extra`. Sample text is never logged above DEBUG. Nobody knows what the
message of an unforeseen exception quotes, be it ours, a library's or asyncio's: so tracebacks come without, with their
frames and types alone, unless the level is DEBUG.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType

from burnish_services.runtime.departures import AsDepartures

ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

_FORMATTED = {"message", "asctime", "taskName"}


def configure(level: str, form: str) -> None:
    """Sends all records of `level` and above to standard error; `form` is `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    whole = level == "debug"
    handler.setFormatter(JsonFormatter(whole) if form == "json" else TextFormatter(whole))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("burnish_services").setLevel(level.upper())
    AsDepartures.install()


def _extras(record: logging.LogRecord) -> dict[str, object]:
    # Compared with a record of this moment: vLLM has a factory of its own, which adds fields to everyone's records.
    standard = vars(logging.makeLogRecord({})).keys() | _FORMATTED
    return {key: value for key, value in vars(record).items() if key not in standard}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Formatter(logging.Formatter):
    """`whole`: tracebacks have what the exceptions say."""

    def __init__(self, whole: bool = False) -> None:
        super().__init__()
        self._whole = whole

    def formatException(self, ei: ExceptionInfo) -> str:  # noqa: N802
        """See Formatter."""
        if self._whole or ei[1] is None:
            return super().formatException(ei)
        return _without_words(traceback.TracebackException.from_exception(ei[1]))


def _without_words(told: traceback.TracebackException) -> str:
    """Frames and types of an exception, of what caused it, and of those in its group."""
    causes = [told.__cause__, None if told.__suppress_context__ or told.__cause__ else told.__context__]
    before = "".join(f"{_without_words(one)}\nthen:\n" for one in causes if one is not None)
    inside = "".join(f"\nof which:\n{_without_words(one)}" for one in told.exceptions or ())
    kind = told.exc_type.__qualname__ if told.exc_type is not None else "exception"
    return f"{before}Traceback (most recent call last):\n{''.join(told.stack.format())}{kind}{inside}"


class TextFormatter(_Formatter):
    """`2026-11-05T10:00:00.000Z INFO call method=ScoringService/GetInfo code=OK`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback after it where there is one."""
        pairs = "".join(f" {key}={_quoted(value)}" for key, value in _extras(record).items())
        message = record.getMessage()
        message = message if message.isprintable() else _escaped(message)
        line = f"{_time(record)} {record.levelname} {message}{pairs}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(_Formatter):
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


def _escaped(text: str) -> str:
    """A text in one line, of which a terminal obeys nothing."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _quoted(value: object) -> str:
    text = str(value)
    plain = text and text.isprintable() and not any(c.isspace() or c in '"=' for c in text)
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())
