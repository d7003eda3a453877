"""Where a URI points on this machine, and which directories callers may have read and written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

_EXPECTED = "expected a path or a file:// URI that this server can read"


class NotLocal(ValueError):
    """A URI names no place of this machine."""


class OutsideRoots(ValueError):
    """A path is not in any of the directories that callers may name."""


def local_path(uri: str) -> Path:
    """The path that a path or `file://` URI names, as it is written. Raises NotLocal for another host or scheme, and
    for what no path can be."""
    if "://" not in uri:
        return _expanded(_possible(uri, uri))
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise NotLocal(f"{uri!r} is no URI ({error}); {_EXPECTED}") from None
    if parts.scheme != "file":
        raise NotLocal(f"{uri!r} has scheme {parts.scheme!r}; expected a path or a file:// URI")
    if parts.netloc not in ("", "localhost"):
        raise NotLocal(f"{uri!r} names another host; expected file:///path, which this server can read")
    return Path(_possible(unquote(parts.path), uri))


def _possible(text: str, uri: str) -> str:
    if not text or "\0" in text:
        raise NotLocal(f"{uri!r} is no path; {_EXPECTED}")
    return text


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise NotLocal(f"{text!r} begins with ~ and a user whom this machine does not know; {_EXPECTED}") from None


@dataclass(frozen=True, slots=True)
class Roots:
    """The directories below which callers may name files: `readable` to have them read, `writable` to have new ones
    made. None: anywhere. What is asked is decided by where a path leads, symbolic links followed."""

    readable: tuple[Path, ...] | None = None
    writable: tuple[Path, ...] | None = None

    def check_readable(self, path: Path) -> Path:
        """`path`, absolute and free of links. Raises OutsideRoots, whether or not anything is there."""
        return _within(path, self.readable, "--read-roots")

    def check_readable_model(self, path: Path) -> Path:
        """As `check_readable`, for a directory, whose entries must not lead out of the roots either."""
        resolved = self.check_readable(path)
        if self.readable is not None and resolved.is_dir():
            for entry in resolved.iterdir():
                self.check_readable(entry)
        return resolved

    def check_writable(self, path: Path) -> Path:
        """As `check_readable`, for something to be made."""
        return _within(path, self.writable, "--write-roots")


def _within(path: Path, roots: Iterable[Path] | None, option: str) -> Path:
    resolved = path.resolve()
    if roots is None:
        return resolved
    allowed = [root.resolve() for root in roots]
    if not any(resolved.is_relative_to(root) for root in allowed):
        listed = ", ".join(str(root) for root in allowed) or "none"
        raise OutsideRoots(
            f"{str(path)!r} is not in the directories that this server's callers may name ({listed}); use one of them,"
            f" or have the operator add its directory to {option}"
        )
    return resolved
