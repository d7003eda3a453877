"""Settings of the rewriting service: environment (BURNISH_REWRITING_…) over the defaults below."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from burnish_services.runtime.environment import EnvironmentSettings


class RewritingSettings(EnvironmentSettings):
    """Limits of the rewriting service."""

    model_config = SettingsConfigDict(env_prefix="BURNISH_REWRITING_", frozen=True, extra="forbid")

    # Items in one request.
    max_items: int = Field(default=256, ge=1)
    # Requests in progress at a time.
    max_concurrent_requests: int = Field(default=16, ge=1)
    # Prompt tokens in its engine at a time, over all requests.
    max_tokens_in_flight: int = Field(default=1 << 20, ge=1)
