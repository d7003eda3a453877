"""What a client is configured with: flags over environment (BURNISH_...) over burnish.toml over defaults.

One flat word per setting: `--scoring-endpoint`, BURNISH_SCORING_ENDPOINT and `scoring_endpoint` are the same. The
file is `burnish.toml` in the working directory, or what `--config` or BURNISH_CONFIG names. Unknown keys are errors.
Variables of the servers (BURNISH_SERVER_..., BURNISH_SCORING_MAX_ITEMS) are theirs and pass by. Nothing is read at
import.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from burnish._channel import ClientOptions
from burnish._endpoints import SERVICES, Endpoints
from burnish._errors import SettingsError, UsageError
from burnish._security import Security

if TYPE_CHECKING:
    from burnish.local import EngineOptions

CONFIG_FILE = "burnish.toml"
_PREFIX = "BURNISH_"
# How alike an unknown variable must be to one of ours to count as a misspelling of it.
_MISSPELLED = 0.85


class Settings(BaseSettings):
    """Resolved settings. Read them with `load_settings`, which words errors and finds the file.

    Times in seconds, sizes in bytes unless the name says otherwise.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    scoring_endpoint: str = Field("", description="address of the scoring service, host:port")
    embedding_endpoint: str = Field("", description="address of the embedding service, host:port")
    rewriting_endpoint: str = Field("", description="address of the rewriting service, host:port")
    training_endpoint: str = Field("", description="address of the training service, host:port")

    tls: bool = Field(False, description="reach services by TLS")
    tls_ca: Path | None = Field(None, description="authorities to trust, PEM, instead of the usual ones; turns TLS on")
    tls_cert: Path | None = Field(None, description="certificate to show, PEM; turns TLS on")
    tls_key: Path | None = Field(None, description="its key, PEM")
    tls_server_name: str = Field("", description="whom the servers' certificates name, where not the address")
    token: SecretStr = Field(SecretStr(""), description="token to show with every call")
    token_file: Path | None = Field(None, description="file with that token, read at every call")

    connect_timeout: float = Field(10.0, gt=0, description="how long an address that never answered is tried")
    reconnect_timeout: float = Field(120.0, gt=0, description="how long a service that answered may be away")
    request_timeout: float | None = Field(None, gt=0, description="deadline of every request; default: by call")
    max_in_flight: int = Field(4, ge=1, description="requests in progress at a time, per service")
    max_message_bytes: int = Field(64 * 2**20, ge=2**16, description="largest message sent or received")
    max_batch_items: int | None = Field(None, ge=1, description="most items in one request")

    engine: Literal["vllm", "transformers", "fake"] | None = Field(
        None, description="engine of services started here; default: the best that is installed"
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto",
        description="number format of services started here; auto: the model's, float32 where a CPU would emulate it",
    )
    max_model_len: int | None = Field(None, ge=16, description="context in tokens of services started here")
    memory_mib: int | None = Field(None, ge=1, description="KV cache of each engine of services started here, MiB")
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="share of each GPU's memory that services started here take for their engines"
    )
    tensor_parallel_size: int | None = Field(
        None, ge=1, description="GPUs that services started here divide each layer among"
    )
    batch_tokens: int | None = Field(
        None, ge=0, description="tokens that the transformers engine of services started here computes together"
    )
    cpu_cores: str | None = Field(None, description="cores that services started here bind to, such as 0-1")
    chat_template: str | None = Field(None, description="chat template of services started here, a name or file")
    compile: bool = Field(False, description="let vLLM compile: slower start, faster steps")
    models_uri: str = Field("", description="where runs have their models published, instead of the run's directory")
    start_timeout: float = Field(600.0, gt=0, description="how long services started here may take to be ready")

    @property
    def endpoints(self) -> Endpoints:
        """Where the services are."""
        return Endpoints(*(getattr(self, f"{service}_endpoint") for service in SERVICES))

    @property
    def client_options(self) -> ClientOptions:
        """How a client behaves."""
        return ClientOptions(
            connect_timeout=self.connect_timeout,
            reconnect_timeout=self.reconnect_timeout,
            request_timeout=self.request_timeout,
            max_in_flight=self.max_in_flight,
            max_message_bytes=self.max_message_bytes,
            max_batch_items=self.max_batch_items,
            security=Security(
                tls=self.tls,
                ca_file=self.tls_ca,
                cert_file=self.tls_cert,
                key_file=self.tls_key,
                server_name=self.tls_server_name,
                token=self.token.get_secret_value(),
                token_file=self.token_file,
            ),
        )

    @property
    def engine_options(self) -> EngineOptions:
        """How services started here load their model."""
        from burnish.local import EngineOptions

        return EngineOptions(
            dtype=self.dtype,
            max_model_len=self.max_model_len,
            memory_mib=self.memory_mib,
            gpu_memory_utilization=self.gpu_memory_utilization,
            tensor_parallel_size=self.tensor_parallel_size,
            batch_tokens=self.batch_tokens,
            cpu_cores=self.cpu_cores,
            chat_template=self.chat_template,
            compile=self.compile,
        )


def load_settings(flags: Mapping[str, Any] | None = None, *, config: Path | None = None) -> Settings:
    """The resolved settings. `flags` are by setting's name, None meaning not given; `config` is the file to read
    instead of burnish.toml. Raises SettingsError, which says which source is wrong and what was expected."""
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    path = _config_file(config, os.environ)
    _check_variables(os.environ)
    try:
        settings = _reading(path)(**given)
        _ = settings.endpoints
    except ValidationError as error:
        raise SettingsError(_explain(error, given, os.environ, path)) from None
    except SettingsError:
        raise
    except UsageError as error:
        raise SettingsError(
            f"{error}{f' (of {path}, where not of the command or the environment)' if path else ''}"
        ) from None
    except (ValueError, RecursionError) as error:  # of the parser: no TOML, no UTF-8, digits or depth without end
        raise SettingsError(f"{path} is not valid TOML in UTF-8: {error}") from None
    return settings


def _reading(path: Path | None) -> type[Settings]:
    """Settings that read flags, then the environment, then the file at `path`."""

    class Located(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            file = (TomlConfigSettingsSource(settings_cls, path),) if path else ()
            return init_settings, env_settings, *file

    return Located


def _config_file(config: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = config or (Path(environ["BURNISH_CONFIG"]) if environ.get("BURNISH_CONFIG") else None)
    path = named or Path(CONFIG_FILE)
    if path.is_file():
        return path
    if named is not None:
        raise SettingsError(f"no configuration file at {named}; name an existing TOML file or leave --config out")
    return None


def _check_variables(environ: Mapping[str, str]) -> None:
    """Raises for a variable that looks like a misspelling of one of ours; others may be the servers'."""
    known = {_PREFIX + name.upper() for name in Settings.model_fields} | {"BURNISH_CONFIG"}
    for variable in environ:
        if not variable.startswith(_PREFIX) or variable in known or variable.startswith("BURNISH_SERVER_"):
            continue
        near = difflib.get_close_matches(variable, sorted(known), n=1, cutoff=_MISSPELLED)
        if near or variable.endswith("_ENDPOINT"):
            meant = near[0] if near else f"BURNISH_<{'|'.join(SERVICES).upper()}>_ENDPOINT"
            raise SettingsError(f"environment variable {variable} is unknown; did you mean {meant}?")


def _explain(error: ValidationError, flags: Mapping[str, Any], environ: Mapping[str, str], path: Path | None) -> str:
    lines = []
    for problem in error.errors():
        name = str(problem["loc"][0]) if problem["loc"] else "settings"
        if name in flags:
            where = f"--{name.replace('_', '-')}"
        elif _PREFIX + name.upper() in environ:
            where = _PREFIX + name.upper()
        else:
            where = f"{path}: {name}"
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, list(Settings.model_fields), n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(Settings.model_fields))}"
            lines.append(f"{where} is no setting of Burnish{hint}")
        else:
            lines.append(f"{where} is {problem['input']!r}: {problem['msg']}")
    return "\n".join(lines)
