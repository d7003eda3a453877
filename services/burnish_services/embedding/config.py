"""Settings of the embedding service: environment (BURNISH_EMBEDDING_…) over the defaults below."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from burnish_services.runtime.environment import EnvironmentSettings


class EmbeddingSettings(EnvironmentSettings):
    """Limits of the embedding service."""

    model_config = SettingsConfigDict(env_prefix="BURNISH_EMBEDDING_", frozen=True, extra="forbid")

    max_items: int = Field(default=256, ge=1, description="samples in one EmbedSamples request")
    max_concurrent_requests: int = Field(default=16, ge=1, description="requests in progress at a time")
    max_tokens_in_flight: int = Field(
        default=1 << 20, ge=1, description="prompt tokens in its engine at a time, over all requests"
    )
    search_device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="where an exact search for neighbours multiplies; auto: on a GPU where torch finds one",
    )
    store_uri: str = Field(
        default="",
        description="where collections are kept: a directory, or s3://, gs:// or az:// with bucket and prefix, of this"
        " server alone; default: in the state directory",
    )
    compact_after: int = Field(
        default=64, ge=2, description="fragments (one per EmbedSamples request) after which a collection is compacted"
    )
    # By itself it would take gigabytes.
    cache_mib: int = Field(
        default=128,
        ge=2,
        description="memory, in MiB, for what LanceDB keeps of the files that it has read, of deleted collections too"
        " until newer ones take its place",
    )
