"""Settings of the scoring service: environment (BURNISH_SCORING_…) over the defaults below."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from burnish_services.runtime.environment import EnvironmentSettings


class ScoringSettings(EnvironmentSettings):
    """Limits of the scoring service, and the NLI model of its full tier of confidence."""

    model_config = SettingsConfigDict(env_prefix="BURNISH_SCORING_", frozen=True, extra="forbid")

    max_items: int = Field(default=512, ge=1, description="samples in one request")
    max_concurrent_requests: int = Field(default=16, ge=1, description="requests in progress at a time")
    max_tokens_in_flight: int = Field(
        default=1 << 20, ge=1, description="prompt tokens in its engines at a time, over all requests"
    )
    nli_model: Path | None = Field(
        default=None,
        description="directory of a classifier of text pairs with a class for contradiction, such as"
        " DeBERTa-large-MNLI; without one the full tier of confidence is refused",
    )
    nli_batch_size: int = Field(default=32, ge=1, description="pairs of texts that it judges at a time")
