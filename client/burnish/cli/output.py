"""What the command says and how it ends: errors as one paragraph, JSON for machines, exit codes.

Exit codes: 0 done; 1 the work failed; 2 wrong usage or bad input; 3 a service could not be reached or started, or
object storage did not give the data; 130 interrupted and resumable.
"""

from __future__ import annotations

import functools
import io
import json
import logging
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, ParamSpec

import typer
from rich.console import Console

from burnish._errors import BurnishError
from burnish._tracing import span
from burnish.coordinator.atomic import writing_whole
from burnish.coordinator.content import as_json

EXIT_INTERRUPTED = 130

P = ParamSpec("P")

errors = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
screen = Console(highlight=False, emoji=False, soft_wrap=True)


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Ends the process with the right exit code and one paragraph on standard error when `function` raises."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            name = guarded.__name__.removesuffix("_command").replace("_", " ")
            with span(f"burnish {name}"):
                function(*args, **kwargs)
        except BurnishError as error:
            complain(_with_notes(str(error), error), as_json=bool(kwargs.get("json_output")), kind=type(error).__name__)
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:  # the reader has gone, as with `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:  # a folder that cannot be made or written, a disk that fails
            if error.errno is None:
                raise
            message = _with_notes(f"{error.filename or 'A file'}: {error.strerror or error}.", error)
            complain(message, as_json=bool(kwargs.get("json_output")), kind=type(error).__name__)
            raise typer.Exit(1) from None
        except KeyboardInterrupt as error:
            message = _with_notes("Interrupted.", error)
            complain(message, as_json=bool(kwargs.get("json_output")), kind="Interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from None

    return guarded


def _with_notes(message: str, error: BaseException) -> str:
    """The message, and what those added to the error whom it passed."""
    return "\n".join([message, *getattr(error, "__notes__", ())])


def complain(message: str, *, as_json: bool = False, kind: str = "Error") -> None:
    """One paragraph (or JSON object) on standard error."""
    if as_json:
        sys.stderr.write(json.dumps({"error": kind, "message": message}, ensure_ascii=False) + "\n")
        return
    first, *rest = visible(message).splitlines() or [""]
    errors.print("burnish: ", style="bold red", end="")
    errors.print(first, markup=False)
    for line in rest:
        errors.print(line, markup=False)


class Warnings(logging.Handler):
    """What the SDK has to tell while it works, such as a service that is away, as dim lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        tell(f"burnish: {record.getMessage()}")


def tell(text: str) -> None:
    """A dim line on standard error, for people."""
    errors.print(visible(text), style="dim", markup=False)


def say(text: str) -> None:
    """A line on standard output, as it is, but for what would steer the terminal."""
    screen.print(visible(text), markup=False)


def visible(text: str) -> str:
    """A text of which a terminal obeys nothing: data and models' answers may have any control character, and an escape
    sequence can set the clipboard."""
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)


def say_json(value: object) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


@contextmanager
def lines_to(path: Path | None) -> Iterator[IO[str]]:
    """A text stream to `path`, which appears whole or not at all; standard output where it is None. Raises DiskFull."""
    if path is None:
        yield sys.stdout
        return
    with writing_whole(path, durable=False, alone=False) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8")
        yield text
        text.detach()  # written, and not closed


def write_line(stream: IO[str], record: Mapping[str, object]) -> None:
    """One JSON object on a line of its own."""
    stream.write(as_json(record) + "\n")
