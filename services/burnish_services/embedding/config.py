"""Settings of the embedding service: environment (BURNISH_EMBEDDING_…) over the defaults below."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class EmbeddingSettings(BaseSettings):
    """Limits of the embedding service."""

    model_config = SettingsConfigDict(env_prefix="BURNISH_EMBEDDING_", frozen=True, extra="forbid")

    # Samples in one EmbedSamples request.
    max_items: int = Field(default=256, ge=1)
    # Requests in progress at a time.
    max_concurrent_requests: int = Field(default=16, ge=1)
    # Fragments (one per EmbedSamples request) after which a collection is compacted.
    compact_after: int = Field(default=64, ge=2)
