"""Settings of the scoring service: environment (BURNISH_SCORING_…) over the defaults below."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ScoringSettings(BaseSettings):
    """Limits of the scoring service."""

    model_config = SettingsConfigDict(env_prefix="BURNISH_SCORING_", frozen=True, extra="forbid")

    # Samples in one request.
    max_items: int = Field(default=512, ge=1)
    # Requests in progress at a time.
    max_concurrent_requests: int = Field(default=16, ge=1)
