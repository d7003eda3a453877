"""Bearer tokens: whose they are and what they allow. The file has digests only, so that reading it lets nobody in.

    [[token]]
    name = "pipeline"                              # in the log of every call
    sha256 = "9f86d081…"                           # of the token: printf %s "$TOKEN" | sha256sum
    scopes = ["scoring", "embedding:read"]         # a service, or what of it changes nothing; `all`, `all:read`

Several tokens may be there at once, and the file is read anew when it changes: to rotate, add the new one, move its
users over, take the old one out.
"""

from __future__ import annotations

import hashlib
import hmac
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from burnish_services.runtime.config import ALL_ROLES
from burnish_services.runtime.watched import Watched

READ = "read"
# What a token needs no more than `SERVICE:read` for: it leaves nothing behind but the model that is held.
READING = frozenset(
    {
        *("GetInfo", "ScoreSamples", "JudgeSamples", "EstimateConfidence", "ComparePairs"),
        *("RewriteSamples", "GenerateResponses"),
        *("GetCollection", "ListCollections", "GetCalibration", "ListCalibrations"),
        *("GetNeighborStatistics", "SelectCoverage", "ProjectSamples"),
        *("GetRun", "ListRuns", "WatchRun", "ReadSampleWeights"),
    }
)
_SCOPES = frozenset(scope for role in ("all", *ALL_ROLES) for scope in (role, f"{role}:{READ}"))


class Token(BaseModel):
    """One entry of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64, pattern=r"^[\w.-]+$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[str, ...] = Field(min_length=1)

    @field_validator("scopes")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(value) - _SCOPES)
        if unknown:
            raise ValueError(f"unknown scopes {', '.join(unknown)}; expected of {', '.join(sorted(_SCOPES))}")
        return value

    def allows(self, role: str, method: str) -> bool:
        """Whether it is good for a method of a service."""
        asked = {role, "all"}
        if method in READING:
            asked |= {f"{role}:{READ}", f"all:{READ}"}
        return not asked.isdisjoint(self.scopes)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: tuple[Token, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a file, as it is now."""

    watched: Watched[Sequence[Token]]

    @classmethod
    def of(cls, path: Path) -> Tokens:
        """Raises OSError, and ValueError where the file is not as it should be."""
        return cls(Watched([path], lambda: read_tokens(path)))

    def find(self, presented: str) -> Token | None:
        """The entry of a token. Takes as long whichever it is, and whether there is one."""
        digest = hashlib.sha256(presented.encode()).hexdigest()
        found = None
        for token in self.watched.value():
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The entries of a file. Raises OSError, and ValueError that names what is wrong."""
    try:
        return _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).token
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise ValueError(f"{path}: {problems}") from None
    except (ValueError, RecursionError) as error:  # of the parser: no TOML, no UTF-8, digits or depth without end
        raise ValueError(f"{path} is not valid TOML in UTF-8: {error}") from None
