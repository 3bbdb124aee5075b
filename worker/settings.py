"""Configuration: the environment, and nothing else. docs/OPERATIONS.md lists every variable.

Every variable starts with EXPORT_RUNS_. The two URLs are required, the rest has defaults. Bounds that no operator has
a reason to move are in worker/limits.py.

A URL is checked before anybody connects. A password that is not percent-encoded moves the borders between the parts of
a URL: a library then takes a piece of the password for the port, the host or the path, and quotes it in an error. So no
sentence here quotes the URL.
"""

import os
import random
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Annotated, Final, Literal, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from schema.errors import FieldError
from schema.fields import Name
from schema.limits import STALE_RUN_AGE_S_MAX

STATEMENT_TIMEOUT_MAX_S: Final = 10

AMQP_URL: Final = "EXPORT_RUNS_AMQP_URL"
DATABASE_URL: Final = "EXPORT_RUNS_DATABASE_URL"
HTTP_PORT: Final = "EXPORT_RUNS_HTTP_PORT"

PORT_MAX: Final = 65_535

AMQP_URLS_MAX: Final = 16

ORGANISATIONS_BYTES_MAX: Final = 4 * 1024 * 1024

_ENCODE: Final = (
    "a user name or password with a special character must be percent-encoded: / as %2F, @ as %40, # as %23, "
    "? as %3F, [ as %5B"
)
_URL: Final = re.compile(r"([a-z]+)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?", re.DOTALL)
_IPV6: Final = r"\[(?P<ipv6>[0-9A-Fa-f:.]+)\]"
_PORT: Final = r"(?::(?P<port>\d+))?"
_AMQP_ADDRESS: Final = re.compile(rf"(?:{_IPV6}|[A-Za-z0-9._-]+){_PORT}", re.ASCII)
_POSTGRESQL_ADDRESS: Final = re.compile(rf"(?:{_IPV6}|[A-Za-z0-9._%-]*){_PORT}", re.ASCII)
"""The host may be missing: then it is a parameter, or a socket on this machine."""

_ENVIRONMENT = SettingsConfigDict(env_prefix="EXPORT_RUNS_", frozen=True, hide_input_in_errors=True)


class Misconfiguration(Exception):
    """A variable of the environment is wrong, as a service says; the message names both, and no password."""

    def __init__(self, variable: str, sentence: str) -> None:
        super().__init__(f"{variable}: {sentence}")


def _are_amqp_urls(urls: SecretStr) -> SecretStr:
    check_amqp_urls(urls.get_secret_value())
    return urls


def _is_database_url(url: SecretStr) -> SecretStr:
    check_database_url(url.get_secret_value())
    return url


@dataclass(frozen=True, slots=True)
class Organisations:
    """Which organisations each user of RabbitMQ may write and ask for, as a file says."""

    path: str
    by_user: Mapping[str, frozenset[str] | None]
    """None: all of them."""

    def refusal(self, user_id: str | None, org_id: str | None, own_user: str | None) -> FieldError | None:
        """Why a message of this user may not be about this organisation; None if it may.

        RabbitMQ has checked who the user is. `own_user` is the worker's: an event that it has parked was checked then.
        """
        if not user_id:
            return FieldError(field="user_id", message="is required")
        if user_id == own_user:
            return None
        if user_id not in self.by_user:
            return FieldError(field="user_id", message="has no organisations")
        allowed = self.by_user[user_id]
        if allowed is None or org_id in allowed:
            return None
        message = "is required" if org_id is None else "is not an organisation of this user"
        return FieldError(field="orgId", message=message)


_USERS: Final = TypeAdapter(dict[str, Literal["*"] | Annotated[list[Name], Field(min_length=1)]])


def read_organisations(path: str) -> Organisations:
    """Read such a file: TOML, with a line for each user, which has a list of organisations or "*".

    Raises ValueError, with the line or the user that is wrong.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(ORGANISATIONS_BYTES_MAX + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    if len(text) > ORGANISATIONS_BYTES_MAX:
        raise ValueError(f"{path}: has more than {ORGANISATIONS_BYTES_MAX:,} bytes")
    try:
        users = _USERS.validate_python(tomllib.loads(text.decode()))
    except ValidationError as error:
        user = str(error.errors()[0]["loc"][0])
        raise ValueError(f'{path}: {user}: must be "*", or a list of at least one organisation') from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not TOML in UTF-8: {error}") from None
    return Organisations(path, {user: None if found == "*" else frozenset(found) for user, found in users.items()})


def _read_organisations(path: object) -> object:
    return read_organisations(path) if isinstance(path, str) else path


class BrokerSettings(BaseSettings):
    """How to reach RabbitMQ."""

    model_config = _ENVIRONMENT

    amqp_url: Annotated[SecretStr, Field(min_length=1), AfterValidator(_are_amqp_urls)]
    """`amqp://user:password@host:port/vhost`, or `amqps://`. Of a cluster, one for each node, with commas between."""

    connect_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10
    """Opening a connection may take this long, to RabbitMQ or to PostgreSQL. All nodes or hosts share it."""

    heartbeat_s: Annotated[int, Field(ge=1, le=600)] = 10
    """How often RabbitMQ and the worker show that they are alive. A frozen connection is noticed after three times this
    and three seconds."""

    @property
    def amqp_urls(self) -> tuple[str, ...]:
        """The URLs in `amqp_url`, in their order."""
        return _split_urls(self.amqp_url.get_secret_value())

    @property
    def user_id(self) -> str | None:
        """The user of the URLs, as a message names it; None where RabbitMQ learns the user otherwise."""
        url = urlsplit(self.amqp_urls[0])
        if url.username:
            return unquote(url.username)
        return None if "auth" in dict(parse_qsl(url.query)) else "guest"

    def from_random_url(self) -> Self:
        """The same, with another of the URLs first: so workers do not all connect to one node."""
        urls = self.amqp_urls
        first = random.randrange(len(urls))
        return self.model_copy(update={"amqp_url": SecretStr(",".join(urls[first:] + urls[:first]))})


class DatabaseSettings(BaseSettings):
    """How to reach PostgreSQL."""

    model_config = _ENVIRONMENT

    database_url: Annotated[SecretStr, Field(min_length=1), AfterValidator(_is_database_url)]
    """`postgresql://user:password@host:port/database`, or `host:port,host:port` of a primary and its standbys."""

    connect_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10

    statement_timeout_s: Annotated[float, Field(gt=0, le=STATEMENT_TIMEOUT_MAX_S)] = 10
    """PostgreSQL ends a statement that takes longer."""

    lock_timeout_s: Annotated[float, Field(gt=0, le=600)] = 5
    """PostgreSQL ends a statement that waits longer for a lock."""

    transaction_pooling: bool = False
    """Whether `database_url` leads to pgbouncer, or another pooler, in transaction mode."""

    purge_enabled: bool = False
    """Whether `export-runs purge` may remove a run for good."""

    @property
    def database_urls(self) -> tuple[str, ...]:
        """One URL for each host in `database_url`, in their order."""
        url = self.database_url.get_secret_value()
        match = _URL.fullmatch(url)
        assert match is not None
        start, end = match.start(2) + match[2].rfind("@") + 1, match.end(2)
        return tuple(url[:start] + address + url[end:] for address in url[start:end].split(","))


class HttpSettings(BaseSettings):
    """Where a worker answers by HTTP how it is."""

    model_config = _ENVIRONMENT

    http_port: Annotated[int, Field(ge=1, le=PORT_MAX)] | None = None
    """Where `/livez`, `/readyz` and `/metrics` are answered. Without it, nowhere."""

    http_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """The address of that port. The default cannot be reached from other machines."""


class WorkerSettings(BrokerSettings, DatabaseSettings, HttpSettings):
    """What the worker needs."""

    request_deadline_s: Annotated[float, Field(gt=0, le=600)] = 30
    """How long the worker supposes the caller of a request without an `expiration` to wait."""

    reply_queue_prefixes: Annotated[tuple[str, ...], NoDecode] = ("reply.",)
    """Comma-separated. Replies go to direct reply-to addresses, to queues that RabbitMQ or aio-pika named, and to
    queues whose names begin with one of these."""

    rpc_queue_type: Literal["classic", "quorum"] = "classic"
    """The type of the request queues. On a cluster, quorum queues are there when the node of a classic one is not."""

    organisations: Annotated[Organisations | None, NoDecode, BeforeValidator(_read_organisations)] = None
    """The path of a file that says which user may write and ask for which organisations. Without it, all for all."""

    stale_run_s: Annotated[int, Field(ge=1, le=STALE_RUN_AGE_S_MAX)] = 86_400
    """The log warns of runs that started longer ago than this and have not ended."""

    shutdown_s: Annotated[float, Field(gt=0, le=600)] = 20
    """How long the worker may take, after SIGTERM or SIGINT, to finish what is in hand."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("organisations")
    @classmethod
    def _knows_own_user(cls, organisations: Organisations | None, info: ValidationInfo) -> Organisations | None:
        urls = info.data.get("amqp_url")
        if organisations is not None and urls is not None and BrokerSettings(amqp_url=urls).user_id is None:
            raise ValueError("needs EXPORT_RUNS_AMQP_URL to name the worker's user, also where a certificate tells it")
        return organisations

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


def check_amqp_urls(urls: str) -> None:
    """Raises ValueError if these are not URLs of brokers, at most AMQP_URLS_MAX; its text quotes nothing of them."""
    split = _split_urls(urls)
    if len(split) > AMQP_URLS_MAX:
        raise ValueError(f"must hold at most {AMQP_URLS_MAX} URLs")
    for url in split:
        _check_address(_address(url, ("amqp", "amqps")), _AMQP_ADDRESS)
        _check_files(url, ("cafile", "certfile", "keyfile"))


def _split_urls(urls: str) -> tuple[str, ...]:
    """A comma in a password stays: only one in front of another URL divides."""
    return tuple(re.split(r",(?=amqps?://)", urls))


def check_database_url(url: str) -> None:
    """Raises ValueError if this is not the URL of a database; its text quotes nothing of the URL."""
    for address in _address(url, ("postgresql", "postgres")).split(","):
        _check_address(address, _POSTGRESQL_ADDRESS)
    _check_files(url, ("sslrootcert", "sslcert", "sslkey", "sslcrl"))


def effective_settings(settings: BaseSettings) -> dict[str, object]:
    """Every setting and its value, for the log. Of a URL it has the hosts and ports: no user, no password."""

    def effective(value: object) -> object:
        match value:
            case SecretStr():
                return _hosts(value)
            case Organisations():
                return value.path
            case _:
                return value

    return {name: effective(value) for name, value in settings}


def _hosts(urls: SecretStr) -> str:
    matches = [_URL.fullmatch(url) for url in _split_urls(urls.get_secret_value())]
    return ",".join(match[2].rpartition("@")[2] for match in matches if match is not None)


def _address(url: str, schemes: Sequence[str]) -> str:
    """The host and port of a URL, once everything around it has the right form."""
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValueError("must not contain white space or control characters")
    match = _URL.fullmatch(url)
    if match is None or match[1] not in schemes:
        raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    authority, path, query, fragment = match.groups()[1:]
    credentials, _, address = authority.rpartition("@")
    is_cut = fragment is not None or "@" in path or ("@" in (query or "") and not credentials)
    if is_cut or re.search(r"[@\[\]]", credentials):
        raise ValueError(_ENCODE)
    if query:
        try:
            parse_qsl(query, strict_parsing=True)
        except ValueError:
            raise ValueError(f"what stands behind the ? must be parameters, such as ?name=value; {_ENCODE}") from None
    return str(address)


def _check_files(url: str, parameters: Sequence[str]) -> None:
    match = _URL.fullmatch(url)
    assert match is not None
    # Not urlsplit: from Python 3.11.12 on it refuses an IPv6 address that is not the first host.
    for name, path in parse_qsl(match[4] or ""):
        if name in parameters and not os.access(path, os.R_OK):
            raise ValueError(f"a certificate file cannot be read, that of the parameter {name}")


def _check_address(address: str, pattern: re.Pattern[str]) -> None:
    match = pattern.fullmatch(address)
    is_right = match is not None and (match["port"] is None or 0 < int(match["port"]) <= PORT_MAX)
    if match is not None and match["ipv6"] is not None:
        is_right = is_right and _is_ipv6(match["ipv6"])
    if not is_right or not _is_host_name(re.sub(r":[0-9]*$", "", address)):
        raise ValueError(f"must name a host, and a port from 1 to {PORT_MAX}; {_ENCODE}")


def _is_host_name(text: str) -> bool:
    """Whether its labels have a length that a name may have. The path of a socket is no name, and any path will do."""
    try:
        text.encode("idna")
    except UnicodeError:
        return "%2f" in text.lower()
    return True


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
