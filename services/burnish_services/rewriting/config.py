"""Settings of the rewriting service: environment (BURNISH_REWRITING_…) over the defaults below."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from burnish_services.runtime.environment import EnvironmentSettings


class RewritingSettings(EnvironmentSettings):
    """Limits of the rewriting service."""

    model_config = SettingsConfigDict(env_prefix="BURNISH_REWRITING_", frozen=True, extra="forbid")

    max_items: int = Field(default=256, ge=1, description="items in one request")
    max_concurrent_requests: int = Field(default=16, ge=1, description="requests in progress at a time")
    max_tokens_in_flight: int = Field(
        default=1 << 20, ge=1, description="prompt tokens in its engine at a time, over all requests"
    )
