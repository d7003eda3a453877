"""Telling a full disk from other trouble, whoever's words it comes in."""

from __future__ import annotations

import errno
import os

# Full, over quota, and over the size that this process may write.
_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WORDS = (*(f"os error {number}" for number in _NUMBERS), *(os.strerror(number) for number in _NUMBERS))


def is_disk_full(error: BaseException | None) -> bool:
    """True where the exception, or one that led to it, says that nothing more could be written. The writers of
    safetensors, torch and Lance give the operating system's number as text only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NUMBERS:
            return True
        if any(word in str(error) for word in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False
