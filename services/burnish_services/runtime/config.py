"""Settings of a server process: flags over environment (BURNISH_SERVER_…) over the defaults below.

Owns what concerns the process; each service's own limits are in its `config.py`. Read once in `__main__.py`
and passed inward as plain values.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from burnish_services.engine.object_places import ObjectMalformed, ObjectPlace, is_object_uri
from burnish_services.engine.places import Root, Roots
from burnish_services.runtime.environment import EnvironmentSettings

ALL_ROLES = ("scoring", "embedding", "rewriting", "training")


class ServerSettings(EnvironmentSettings):
    """How one server process runs."""

    model_config = SettingsConfigDict(env_prefix="BURNISH_SERVER_", frozen=True, extra="forbid")

    roles: Annotated[tuple[str, ...], NoDecode] = Field(default=ALL_ROLES, description="services to run, or all")
    engine: Literal["vllm", "transformers", "fake"] = Field(
        default="vllm", description="what runs models; fake needs no device and is for tests"
    )
    model: str = Field(
        default="",
        description="model held first: a directory, or s3://, gs:// or az:// with bucket and prefix; needed unless only"
        " training runs here",
    )
    host: str = Field(default="127.0.0.1", description="address to bind")
    port: int = Field(default=0, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    insecure: bool = Field(default=False, description="let other machines reach the host without encryption or login")
    tls_cert: Path | None = Field(
        default=None, description="certificate with its chain, PEM; read anew when it changes, as are the next three"
    )
    tls_key: Path | None = Field(default=None, description="its key, PEM, without a password")
    tls_client_ca: Path | None = Field(
        default=None, description="authorities of which clients must show a certificate, PEM"
    )
    tokens: Path | None = Field(default=None, description="TOML file of the tokens that callers show")
    guard_health: bool = Field(default=False, description="health checks must show a token as well")
    read_roots: Annotated[tuple[Root, ...] | None, NoDecode] = Field(
        default=None,
        description="directories and places in object storage in which callers may name models and data",
    )
    write_roots: Annotated[tuple[Root, ...] | None, NoDecode] = Field(
        default=None, description="the same for models that callers have written; these may be read, too"
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="port of metrics for Prometheus, without login; 0 takes a free one; default: no metrics",
    )
    metrics_host: str = Field(default="", description="address of that port; default: that of the host")
    health_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="port for probes that can neither encrypt nor show a token, and nothing else; 0 takes a free one;"
        " default: none",
    )
    state_dir: Path = Field(
        default=Path("burnish-state"), description="where vectors, training runs and models from object storage are"
    )
    model_cache_bytes: int = Field(
        default=200 * 2**30,
        ge=2**20,
        description="of the models from object storage that are kept in the state directory; those not used for longest"
        " go first",
    )
    ready_file: Path | None = Field(
        default=None,
        description="file that is written as JSON once calls are answered: pid, address, roles, metrics, health",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="number format of models; auto: theirs, or float32 where a CPU would emulate it"
    )
    max_model_len: int | None = Field(default=None, ge=16, description="context in tokens; default: the model's own")
    memory_mib: int | None = Field(
        default=None, ge=1, description="KV cache of each engine, MiB; default: the engine's own"
    )
    gpu_memory_utilization: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of each GPU's memory that the engines of this process take together (vLLM); default: 0.9,"
        " 0.5 where training runs here as well",
    )
    tensor_parallel_size: int = Field(default=1, ge=1, description="GPUs that each layer is divided among (vLLM)")
    # Alone, scores do not depend to the last bit on what else is asked for.
    batch_tokens: int | None = Field(
        default=None,
        ge=0,
        description="tokens that the transformers engine computes together; 0: every sequence alone; default: 0 on a"
        " CPU, 16,384 on a GPU",
    )
    cpu_cores: str | None = Field(default=None, description="cores for vLLM on a CPU, such as 0-1")
    chat_template: str | None = Field(
        default=None, description="chat template instead of the model's own: a name or a file"
    )
    compile: bool = Field(default=False, description="compile the model: slower to start, faster to run (vLLM)")
    engine_restarts: int = Field(
        default=3, ge=0, description="how often in ten minutes an engine is started anew whose process ended"
    )
    exit_with_parent: bool = Field(
        default=False, description="stop when standard input ends, as it does with the parent"
    )
    grace: float = Field(default=30.0, ge=0, description="seconds for running calls at a stop")
    max_connection_age: float = Field(
        default=0.0,
        ge=0,
        description="seconds after which clients are asked to connect anew, so that they find new replicas; 0: never",
    )
    # gRPC itself takes less than 2 GiB.
    max_message_bytes: int = Field(
        default=64 * 2**20, ge=2**16, lt=2**31, description="largest message received or sent"
    )
    max_bytes_in_flight: int = Field(
        default=2**30,
        ge=2**16,
        description="bytes of the messages of all calls in progress: requests from when they arrive, replies until they"
        " are taken",
    )
    max_calls: int = Field(
        default=1024, ge=1, description="calls and streams in progress at a time, of all services and clients"
    )
    receive_timeout: float = Field(default=60.0, gt=0, description="seconds that a message may take to arrive")
    max_pending: int = Field(
        default=5,
        ge=1,
        description="whole seconds that a call which nobody has looked at yet is kept; gRPC then ends it, as CANCELLED",
    )
    keepalive: float = Field(
        default=60.0,
        ge=1,
        description="seconds between the pings by which connections are found whose other end is gone or stuck",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severe lines that are logged"
    )
    log_format: Literal["text", "json"] = Field(default="text", description="how lines are written")

    @field_validator("read_roots", "write_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(_root(part.strip()) for part in value.split(",") if part.strip())
        return value

    @field_validator("read_roots", "write_roots")
    @classmethod
    def _existing_roots(cls, value: tuple[Root, ...] | None) -> tuple[Root, ...] | None:
        for root in value or ():
            if isinstance(root, Path) and not root.is_dir():
                raise ValueError(f"{root} is no directory; expected directories that exist, separated by commas")
        return value

    @field_validator("roles", mode="before")
    @classmethod
    def _split_roles(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("roles")
    @classmethod
    def _known_roles(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "all" in value:
            return ALL_ROLES
        unknown = sorted(set(value) - set(ALL_ROLES))
        if unknown or not value:
            raise ValueError(
                f"unknown role {', '.join(unknown) or '(none given)'}; "
                f"expected one or more of {', '.join(ALL_ROLES)}, separated by commas, or `all`"
            )
        return tuple(role for role in ALL_ROLES if role in value)

    @model_validator(mode="after")
    def _safe_to_expose(self) -> ServerSettings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("a certificate and its key go together: give both --tls-cert and --tls-key")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("clients show certificates over TLS only: --tls-client-ca needs --tls-cert and --tls-key")
        if self.guard_health and self.tokens is None:
            raise ValueError("health checks can be guarded by tokens only: --guard-health needs --tokens")
        if not self.insecure and not is_loopback(self.host):
            self._check_exposed()
        if not self.insecure and self.metrics_host and not is_loopback(self.metrics_host) and self.tls_cert is None:
            raise ValueError(
                f"metrics host {self.metrics_host} can be reached from other machines, and metrics are encrypted with"
                " the server's own certificate, of which there is none: give --tls-cert and --tls-key, take"
                " 127.0.0.1, or, on a network that only trusted machines reach, add --insecure"
            )
        if self.needs_engine and not self.model:
            raise ValueError(
                "no model named; roles other than training need --model DIR, a directory with config.json, "
                "*.safetensors and tokenizer files, or such a place in object storage (s3://BUCKET/PREFIX)"
            )
        return self

    def _check_exposed(self) -> None:
        """Raises ValueError where other machines could call without being asked who they are."""
        missing = [] if self.tls_cert is not None else ["encryption (--tls-cert and --tls-key)"]
        if self.tokens is None and self.tls_client_ca is None:
            missing.append("a way to tell who calls (--tokens, or --tls-client-ca)")
        if missing:
            raise ValueError(
                f"host {self.host} can be reached from other machines, without {' and without '.join(missing)}: anyone"
                " who reaches the port could read model directories and use the device. Give what is missing, bind to"
                " 127.0.0.1, or, on a network that only trusted machines reach, add --insecure"
            )

    @property
    def roots(self) -> Roots:
        """Where the files are that callers may name, here and in object storage. A server that other machines reach and
        that was given none reads the model that it was started with and what it trained; one on loopback reads and
        writes what its user may."""
        if self.read_roots is None and self.write_roots is None and is_loopback(self.host):
            return Roots()
        own = (self.state_dir / "training", *([_root(self.model)] if self.model else []))
        writable = self.write_roots or ()
        return Roots(readable=(*(self.read_roots or ()), *writable, *own), writable=writable)

    @property
    def engine_memory_utilization(self) -> float:
        """Of each GPU, what one engine takes: scoring and rewriting share one that generates, scoring and embedding one
        that reads."""
        roles = set(self.roles)
        engines = bool(roles & {"scoring", "rewriting"}) + bool(roles & {"scoring", "embedding"})
        together = self.gpu_memory_utilization or (0.5 if "training" in roles else 0.9)
        return together / max(1, engines)

    @property
    def model_cache(self) -> Path:
        """Where models from object storage are kept."""
        return self.state_dir / "models"

    @property
    def model_cache_options(self) -> tuple[str, ...]:
        """The same, for a process that uses the cache, too."""
        return ("--model-cache", str(self.model_cache), "--model-cache-bytes", str(self.model_cache_bytes))

    @property
    def needs_engine(self) -> bool:
        """True where some role runs a model in this process; training runs its own in worker processes."""
        return any(role != "training" for role in self.roles)


def _root(text: str) -> Root:
    """A place that a setting names. Raises ValueError where it is none."""
    if not is_object_uri(text):
        return Path(text).expanduser()
    try:
        return ObjectPlace.parse(text)
    except ObjectMalformed as error:
        raise ValueError(f"{text!r} names no place in object storage: {error}") from None


def is_loopback(host: str) -> bool:
    """True where only this machine can reach `host`: a loopback address, or `localhost`."""
    name = host.strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
