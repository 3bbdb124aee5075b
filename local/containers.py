"""RabbitMQ and PostgreSQL as Docker containers, where there is a Docker engine."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
from collections.abc import Callable, Mapping

from docker import DockerClient as DockerEngine
from docker.errors import DockerException, ImageNotFound, NotFound
from testcontainers.core.config import ConnectionMode, testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient, get_docker_host

from local.postgresql import AUTHENTICATION_REQUEST, BUILTIN_LOCALE_VERSION_MIN, STARTUP_MESSAGE
from local.postgresql_programs import chosen_version
from local.processes import LOG_TAIL_BYTES_MAX, ServiceError, answers, wait_until
from local.rabbitmq import METHOD_FRAME, PROTOCOL_HEADER
from local.server import START_TIMEOUT_S

RABBITMQ_IMAGE = "rabbitmq:4"
POSTGRESQL_IMAGE = f"postgres:{chosen_version()}"

_ENGINE_DEFAULT = "unix:///var/run/docker.sock"
_ENGINE_TIMEOUT_S = 20

# The first start in a process also starts the container that removes the others at the end. Two starts at the same
# time would start it twice.
_start_lock = threading.Lock()


class Container:
    """A server in a container, with a random password. It listens on 127.0.0.1 if the engine runs on this machine."""

    def __init__(self, container: DockerContainer, port: int, url: str, greeting: bytes, reply: bytes) -> None:
        """`url` has the fields {host} and {port}. A server that is ready answers `greeting` with `reply`."""
        self._container = container
        self._port = port
        self._url = url
        self._greeting = greeting
        self._reply = reply
        self._address = ("", 0)

    @property
    def url(self) -> str:
        """The URL to connect to, with user and password. Valid after `start`."""
        host, port = self._address
        return self._url.format(host=host, port=port)

    def start(self) -> None:
        """Start it and wait until it answers. Raises ServiceError, with the end of its log, if it does not."""
        client = self._container.get_docker_client()
        is_local = client.get_connection_mode() is ConnectionMode.docker_host and client.host() == "localhost"
        # docker-py takes an address and a port here. The annotation of testcontainers allows only the port.
        self._container.ports[str(self._port)] = ("127.0.0.1", None) if is_local else None  # type: ignore[assignment]
        with _start_lock:
            self._container.start()
        host = "127.0.0.1" if is_local else self._container.get_container_host_ip()
        self._address = host, self._container.get_exposed_port(self._port)
        if not wait_until(lambda: answers(*self._address, self._greeting, self._reply), START_TIMEOUT_S):
            log = b"".join(self._container.get_logs())[-LOG_TAIL_BYTES_MAX:].decode(errors="replace")
            raise ServiceError(f"{self._container.image} did not answer in {START_TIMEOUT_S:.0f} s:\n{log}")

    def close(self) -> None:
        """Stop it and remove it. A second call does nothing."""
        with contextlib.suppress(NotFound):
            self._container.stop()


def rabbitmq() -> Container:
    """A RabbitMQ container, not yet started."""
    password = secrets.token_hex(16)
    environment = {"RABBITMQ_DEFAULT_USER": "export-runs", "RABBITMQ_DEFAULT_PASS": password}
    url = f"amqp://export-runs:{password}@{{host}}:{{port}}/"
    return Container(DockerContainer(RABBITMQ_IMAGE, env=environment), 5672, url, PROTOCOL_HEADER, METHOD_FRAME)


def postgresql(settings: Mapping[str, str]) -> Container:
    """A PostgreSQL container with these settings, not yet started."""
    password = secrets.token_hex(16)
    builtin = int(chosen_version()) >= BUILTIN_LOCALE_VERSION_MIN
    container = DockerContainer(
        POSTGRESQL_IMAGE,
        env={
            "POSTGRES_PASSWORD": password,
            "POSTGRES_INITDB_ARGS": f"{'--locale-provider=builtin ' if builtin else ''}--locale=C.UTF-8",
        },
    )
    container.with_command(["postgres", *(f"--{name}={value}" for name, value in settings.items())])
    url = f"postgresql://postgres:{password}@{{host}}:{{port}}/postgres"
    return Container(container, 5432, url, STARTUP_MESSAGE, AUTHENTICATION_REQUEST)


def can_run(image: str, say: Callable[[str], None]) -> bool:
    """Whether a Docker engine answers and has `image`, or can pull it."""
    if not _engine_listens():
        return False
    images = [image] if testcontainers_config.ryuk_disabled else [image, testcontainers_config.ryuk_image]
    try:
        engine = DockerClient(timeout=_ENGINE_TIMEOUT_S).client
    except DockerException:
        return False
    with contextlib.closing(engine):
        try:
            for name in (testcontainers_config.hub_image_name_prefix + name for name in images):
                _pull_if_missing(engine, name, say)
        except (DockerException, OSError) as error:
            say(f"The Docker engine cannot provide {image}, so a program of this machine is used instead: {error}")
            return False
    return True


def _engine_listens() -> bool:
    """Whether the engine's socket file accepts connections. True as well if the engine is on another machine.

    docker-py would find that out too, but it would leave a socket open, and the garbage collector would warn.
    """
    kind, _, path = (get_docker_host() or _ENGINE_DEFAULT).partition("://")
    if kind != "unix":
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def _pull_if_missing(engine: DockerEngine, name: str, say: Callable[[str], None]) -> None:
    """Pull an image that the engine does not have. Raises DockerException, or OSError for a time-out."""
    try:
        engine.images.get(name)
    except ImageNotFound:
        say(f"Pulling {name} ...")
        engine.images.pull(name)
