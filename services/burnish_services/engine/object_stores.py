"""The clients of object stores: the one door to them, but for the vectors, which go through LanceDB.

Where a store is, and with which credentials it is asked, is told by the server's environment alone: no URI can name a
host. obstore is imported when a store is asked for something.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from configparser import ConfigParser
from configparser import Error as ConfigError
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish_services.engine.object_places import (
    ObjectChanged,
    ObjectDenied,
    ObjectError,
    ObjectExists,
    ObjectMissing,
    ObjectPlace,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_CONNECT_SECONDS, _REQUEST_SECONDS, _RETRIES, _RETRY_SECONDS = 10, 120, 3, 60


def client_module() -> Any:
    """obstore."""
    import obstore

    return obstore


def store_of(place: ObjectPlace) -> Any:
    """A client of the place's bucket. Made anew where the environment changes."""
    relevant = ("AWS_", "GOOGLE_", "AZURE_", "HOME")
    environment = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith(relevant)))
    return _made(place.scheme, place.bucket, environment)


@lru_cache(maxsize=32)
def _made(scheme: str, bucket: str, environment: tuple[tuple[str, str], ...]) -> Any:
    return _STORES[scheme](bucket, dict(environment))


_RETRY: RetryConfig = {"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_RETRY_SECONDS)}


def _options(*, http: bool = False) -> ClientConfig:
    return {"connect_timeout": f"{_CONNECT_SECONDS}s", "timeout": f"{_REQUEST_SECONDS}s", "allow_http": http}


def _s3(bucket: str, environment: Mapping[str, str]) -> Any:
    from obstore.store import S3Store

    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    endpoint = next((environment[name] for name in names if environment.get(name)), "")
    chosen: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
    if not environment.get("AWS_REGION") and environment.get("AWS_DEFAULT_REGION"):
        chosen["region"] = environment["AWS_DEFAULT_REGION"]
    if not environment.get("AWS_ACCESS_KEY_ID"):
        chosen |= _profile(environment)
    return S3Store(bucket, **chosen, client_options=_options(http=endpoint.startswith("http://")), retry_config=_RETRY)


def _profile(environment: Mapping[str, str]) -> dict[str, Any]:
    """Keys of the profile in the file that AWS's own programs keep them in, if there are any."""
    named = environment.get("AWS_SHARED_CREDENTIALS_FILE")
    parser = ConfigParser(interpolation=None)
    try:
        parser.read(Path(named) if named else Path.home() / ".aws" / "credentials", encoding="utf-8")
        found = parser[environment.get("AWS_PROFILE") or "default"]
    except (ConfigError, KeyError, OSError, RuntimeError, ValueError):
        return {}
    words = {"aws_access_key_id": "access_key_id", "aws_secret_access_key": "secret_access_key"}
    words["aws_session_token"] = "session_token"  # noqa: S105 - a name
    return {ours: found[theirs] for theirs, ours in words.items() if theirs in found}


def _gs(bucket: str, environment: Mapping[str, str]) -> Any:
    from obstore.store import GCSStore

    return GCSStore(bucket, client_options=_options(), retry_config=_RETRY)


def _azure(bucket: str, environment: Mapping[str, str]) -> Any:
    from obstore.store import AzureStore

    if not environment.get("AZURE_STORAGE_ACCOUNT_NAME"):
        raise ObjectError("AZURE_STORAGE_ACCOUNT_NAME is not set in the server's environment")
    return AzureStore(bucket, client_options=_options(), retry_config=_RETRY)


_STORES: dict[str, Callable[[str, Mapping[str, str]], Any]] = {"s3": _s3, "gs": _gs, "az": _azure}


@contextmanager
def told_as_ours(place: ObjectPlace) -> Iterator[None]:
    """Has what obstore raises be an ObjectError."""
    from obstore import exceptions

    try:
        yield
    except FileNotFoundError as error:
        raise ObjectMissing("there is nothing at that place") from error
    except exceptions.AlreadyExistsError as error:
        raise ObjectExists(f"{place} is there already") from error
    except exceptions.PreconditionError as error:
        raise ObjectChanged(f"{place} changed while it was read") from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise ObjectDenied(_said(error)) from error
    except exceptions.BaseError as error:
        said = _said(error)
        if "404 Not Found" in said:
            raise ObjectMissing(f"there is no bucket {place.bucket}") from error
        if "401 Unauthorized" in said or "403 Forbidden" in said:
            raise ObjectDenied(said) from error
        raise ObjectError(said) from error


def _said(error: Exception) -> str:
    """An error of obstore's without its debugging output."""
    return " ".join(str(error).partition("\n\nDebug source")[0].split())[:500]
