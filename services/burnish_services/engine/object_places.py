"""Places in object storage, by URI. Pure: knows no store."""

from __future__ import annotations

import re
from dataclasses import dataclass

SCHEMES = ("s3", "gs", "az")

# What S3, GCS and Azure allow. A name with anything else could become another host in the address that is made of it.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class ObjectError(Exception):
    """The store cannot be reached, or does not answer as it should, now; the message says why, without credentials."""


class ObjectMissing(ObjectError):
    """There is no such object, or no such bucket."""


class ObjectDenied(ObjectError):
    """The store does not let this server do that."""


class ObjectChanged(ObjectError):
    """The object is not the one any more that was listed."""


class ObjectExists(ObjectError):
    """There is an object of that name already."""


class ObjectMalformed(ObjectError):
    """The URI names no place."""


def is_object_uri(uri: str) -> bool:
    """Whether a URI is of object storage, well-formed or not."""
    scheme, separator, _ = uri.partition("://")
    return bool(separator) and scheme.lower() in SCHEMES


@dataclass(frozen=True, slots=True)
class ObjectPlace:
    """A bucket, or what is below a prefix of whole path segments there, or one object."""

    scheme: str
    bucket: str
    key: str  # without slashes at its ends; empty: the whole bucket

    @classmethod
    def parse(cls, uri: str) -> ObjectPlace:
        """The place that a URI names, a slash at its end or not. Raises ObjectMalformed."""
        scheme, separator, rest = uri.partition("://")
        scheme = scheme.lower()
        bucket, _, key = rest.partition("/")
        key = key.removesuffix("/")
        wrong = [part for part in key.split("/") if part in ("", ".", "..")] if key else []
        if not separator or scheme not in SCHEMES or not _BUCKET.fullmatch(bucket) or wrong or _CONTROL.search(key):
            raise ObjectMalformed(
                f"expected {scheme if scheme in SCHEMES else 's3'}://BUCKET/PREFIX, without empty segments, . or .."
            )
        return cls(scheme, bucket, key)

    def __truediv__(self, name: str) -> ObjectPlace:
        return ObjectPlace(self.scheme, self.bucket, f"{self.key}/{name}" if self.key else name)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.key}" if self.key else "")

    @property
    def name(self) -> str:
        """The last segment."""
        return self.key.rpartition("/")[2]

    def is_within(self, root: ObjectPlace) -> bool:
        """Whether this is `root` or below it, by whole segments."""
        if (self.scheme, self.bucket) != (root.scheme, root.bucket):
            return False
        return not root.key or self.key == root.key or self.key.startswith(root.key + "/")
