"""Configuration: the environment, and nothing else (DESIGN section 5).

Every variable starts with EXPORT_RUNS_. The two URLs are required, the rest has defaults. Bounds that no
operator has a reason to move are constants where they are used.
"""

from typing import Annotated, Final, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from schema.limits import STALE_RUN_AGE_S_MAX

STATEMENT_TIMEOUT_MAX_S: Final = 10

_ENVIRONMENT = SettingsConfigDict(env_prefix="EXPORT_RUNS_", frozen=True, hide_input_in_errors=True)


class BrokerSettings(BaseSettings):
    """How to reach RabbitMQ."""

    model_config = _ENVIRONMENT

    amqp_url: Annotated[SecretStr, Field(min_length=1)]
    """`amqp://user:password@host:port/vhost`, or `amqps://`."""

    connect_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10
    """For opening a connection, to RabbitMQ or to PostgreSQL."""

    heartbeat_s: Annotated[int, Field(ge=1, le=600)] = 10
    """A frozen broker is noticed after three times this, and three seconds."""


class DatabaseSettings(BaseSettings):
    """How to reach PostgreSQL."""

    model_config = _ENVIRONMENT

    database_url: Annotated[SecretStr, Field(min_length=1)]
    """`postgresql://user:password@host:port/database`."""

    connect_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10

    statement_timeout_s: Annotated[float, Field(gt=0, le=STATEMENT_TIMEOUT_MAX_S)] = 10
    """PostgreSQL ends a statement that takes longer."""

    lock_timeout_s: Annotated[float, Field(gt=0, le=600)] = 5
    """PostgreSQL ends a statement that waits longer for a lock."""

    statement_cache_size: Annotated[int, Field(ge=0, le=10_000)] = 100
    """Prepared statements a connection keeps; 0 behind pgbouncer in transaction mode."""

    purge_enabled: bool = False
    """Whether `export-runs purge` may remove a run for good."""


class WorkerSettings(BrokerSettings, DatabaseSettings):
    """What the worker needs."""

    request_deadline_s: Annotated[float, Field(gt=0, le=600)] = 30
    """How long the caller of a request without an `expiration` is taken to wait."""

    reply_queue_prefixes: Annotated[tuple[str, ...], NoDecode] = ("reply.",)
    """Comma-separated. Replies go to direct reply-to, to server-named queues, and to queues named like this."""

    stale_run_s: Annotated[int, Field(ge=1, le=STALE_RUN_AGE_S_MAX)] = 86_400
    """The log warns of runs that started so long ago and have not ended."""

    shutdown_s: Annotated[float, Field(gt=0, le=600)] = 20
    """How long finishing what is in hand may take after SIGTERM or SIGINT."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("reply_queue_prefixes", mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(prefix for part in value.split(",") if (prefix := part.strip()))
        return value

    @field_validator("reply_queue_prefixes")
    @classmethod
    def _not_our_own(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        for prefix in prefixes:
            if prefix.startswith("export-runs.") or "export-runs.".startswith(prefix):
                raise ValueError("must not let replies into the queues of the service")
        return prefixes
