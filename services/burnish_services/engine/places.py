"""Where a URI points on this machine, and which places, here or in object storage, callers may have read and
written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from burnish_services.engine.object_places import ObjectPlace

_EXPECTED = "expected a path or a file:// URI that this server can read"


class NotLocal(ValueError):
    """A URI names no place of this machine."""


class OutsideRoots(ValueError):
    """A place is not in any of those that callers may name."""


# A directory, or a bucket or prefix of object storage: everything below it.
Root = Path | ObjectPlace


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
    """The places below which callers may name files: `readable` to have them read, `writable` to have new ones made.
    None: anywhere. What is asked is decided by where a path leads, symbolic links followed; in object storage by whole
    segments of its prefix."""

    readable: tuple[Root, ...] | None = None
    writable: tuple[Root, ...] | None = None

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

    def check_readable_object(self, place: ObjectPlace) -> ObjectPlace:
        """`place`. Raises OutsideRoots, whether or not anything is there."""
        return _object_within(place, self.readable, "--read-roots")

    def check_writable_object(self, place: ObjectPlace) -> ObjectPlace:
        """As `check_readable_object`, for something to be made."""
        return _object_within(place, self.writable, "--write-roots")


def _within(path: Path, roots: Iterable[Root] | None, option: str) -> Path:
    resolved = path.resolve()
    if roots is None:
        return resolved
    allowed = [root.resolve() for root in roots if isinstance(root, Path)]
    if not any(resolved.is_relative_to(root) for root in allowed):
        raise OutsideRoots(_outside(str(path), "directories", allowed, "directory", option))
    return resolved


def _object_within(place: ObjectPlace, roots: Iterable[Root] | None, option: str) -> ObjectPlace:
    if roots is None:
        return place
    allowed = [root for root in roots if isinstance(root, ObjectPlace)]
    if not any(place.is_within(root) for root in allowed):
        raise OutsideRoots(_outside(str(place), "places of object storage", allowed, "prefix", option))
    return place


def _outside(name: str, kind: str, allowed: Iterable[Root], what: str, option: str) -> str:
    listed = ", ".join(str(root) for root in allowed) or "none"
    return (
        f"{name!r} is not in the {kind} that this server's callers may name ({listed}); use one of them,"
        f" or have the operator add its {what} to {option}"
    )
