"""What can go wrong in the coordinator, as one tree. Messages say what was wrong, what was expected, what to do.

    BurnishError                  (the SDK's root)
    └── CoordinatorError          exit code 1
        ├── InputError            2    the data or the settings cannot be used
        │   ├── DataError         2    rows or files of a data set, with places
        │   │   └── DataAway      3    ... in object storage that does not give them now
        │   └── RunMismatch       2    the run directory belongs to other data or settings
        ├── LedgerError           1    the ledger cannot be used
        │   ├── LedgerBusy        1    another process holds it
        │   ├── NoRun             2    the folder holds no run
        │   ├── LedgerTooNew      1    made by a newer Burnish
        │   ├── LedgerDamaged     1    something else changed its file; `burnish repair` saves what is whole
        │   └── DiskFull          1    nothing more can be written; nothing is lost
        ├── StepFailed            1    a step could not be done; running again goes on from there
        │   └── PointsFailed      1    some points of a sweep (coordinator/sweep.py)
        └── Interrupted           130  stopped on request; running again goes on from there

Errors of a service call are the SDK's (`burnish._errors.ServiceError`) and pass through unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

from burnish._errors import BurnishError


class CoordinatorError(BurnishError):
    """Anything the coordinator can say about itself; the text is meant for people."""


class InputError(CoordinatorError):
    """The caller's data or settings cannot be used."""

    exit_code = 2


class DataError(InputError):
    """A data set cannot be read; `problems` has one sentence per place."""

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class DataAway(DataError):
    """Object storage does not answer, or breaks off: the same command may find the data later."""

    exit_code = 3


class RunMismatch(InputError):
    """A run directory holds a run with other data or settings; the message names what differs."""


class LedgerError(CoordinatorError):
    """The ledger cannot be used."""


class LedgerBusy(LedgerError):
    """Another process holds the ledger; `pid` says which, where that is known."""

    def __init__(self, message: str, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class LedgerTooNew(LedgerError):
    """The ledger's schema is newer than this Burnish knows."""


class NoRun(LedgerError):
    """A folder that should hold a run holds none."""

    exit_code = 2

    def __init__(self, folder: object) -> None:
        super().__init__(f"{folder} holds no run; expected the folder that was given to --out.")


class LedgerDamaged(LedgerError):
    """The ledger's file is not as it was written. What is whole in it can be saved (`burnish repair`)."""


class DiskFull(LedgerError):
    """Nothing more can be written. What was committed is safe; running again goes on from there."""


class StepFailed(CoordinatorError):
    """A step could not be done. What was committed is safe; running again goes on from there."""


class Interrupted(CoordinatorError):
    """Stopped on request after the batches in flight; running again goes on from there."""

    exit_code = 130
