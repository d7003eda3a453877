"""Settings that come from the environment, where a variable that is misspelt is an error instead of passed over."""

from __future__ import annotations

import difflib
import os
from typing import Any

from pydantic import model_validator
from pydantic_settings import BaseSettings

# How alike what follows the prefix must be to the name of a setting to count as a misspelling of it. Other variables
# are somebody else's: Kubernetes names the addresses of services in this way, and clients have some of their own.
_MISSPELLED = 0.75


class EnvironmentSettings(BaseSettings):
    """One section of a server's settings, with an `env_prefix` of its own."""

    @model_validator(mode="before")
    @classmethod
    def _no_variable_is_misspelt(cls, values: Any) -> Any:
        prefix = cls.model_config.get("env_prefix", "")
        for variable in sorted(map(str.upper, os.environ)):
            name = variable.removeprefix(prefix).lower()
            if not variable.startswith(prefix) or name in cls.model_fields:
                continue
            if meant := difflib.get_close_matches(name, sorted(cls.model_fields), n=1, cutoff=_MISSPELLED):
                raise ValueError(f"{variable} is no setting; did you mean {prefix}{meant[0].upper()}?")
        return values
