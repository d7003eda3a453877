"""Tells people, in the log, that a service stays away, and that it is back: a line each, however many calls wait."""

from __future__ import annotations

import logging
import time

log = logging.getLogger("burnish")

_TELL_AFTER = 3.0  # seconds; a replica that is replaced is away for less


class Absence:
    """Whether a service answers now."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._since: float | None = None
        self._told = False

    def missed(self, address: str, why: str, patience: float) -> None:
        """A call failed because the service is away, and will be tried again for up to `patience` seconds."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if not self._told and now - self._since >= _TELL_AFTER:
            self._told = True
            log.warning(
                "the %s service at %s does not answer (%s); waiting up to %.0f s for it, nothing is lost meanwhile",
                self._service,
                address,
                why,
                patience,
            )

    def over(self, address: str) -> None:
        """A call was answered."""
        if self._told and self._since is not None:
            log.warning(
                "the %s service at %s answers again, after %.0f s",
                self._service,
                address,
                time.monotonic() - self._since,
            )
        self._since, self._told = None, False
