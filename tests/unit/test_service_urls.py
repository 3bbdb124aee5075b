"""A wrong URL of a service is refused before anybody connects, with a text that has no part of the password."""

import re
from collections.abc import Callable
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from worker.settings import check_amqp_urls, check_database_url

Check = Callable[[str], None]

SOUND_URLS: list[tuple[str, Check]] = [
    ("amqp://broker", check_amqp_urls),
    ("amqps://me:secret@broker.example:5671/vhost?cafile=/dev/null", check_amqp_urls),
    ("amqp://me:se%2Fc%40r%23e%3Ft%3A@[::1]:5672/%2F", check_amqp_urls),
    ("amqp://me:a:b@my_broker-1/", check_amqp_urls),
    ("amqp://me:a,b@n1:5672/x,amqps://me:a,b@n2/x,amqp://[::1]:5674/x", check_amqp_urls),
    (",".join(["amqp://node"] * 16), check_amqp_urls),
    ("postgresql://me:secret@server:5432/runs?sslmode=require&options=-c%20a%3Db", check_database_url),
    ("postgres://me@h1:5432,h2,[::1]:5433/runs?target_session_attrs=primary", check_database_url),
    ("postgresql:///runs?host=/run/postgresql&user=me", check_database_url),
    ("postgresql://%2Frun%2Fpostgresql:5433/runs", check_database_url),
    (f"postgresql://%2F{'run' * 30}:5433/runs", check_database_url),
    (f"amqp://{'h' * 63}:5672/", check_amqp_urls),
    ("postgresql://me:secret@server/runs?user=me@realm", check_database_url),
]


@pytest.mark.parametrize(("url", "check"), SOUND_URLS, ids=[url for url, _ in SOUND_URLS])
def test_a_sound_url_is_accepted(url: str, check: Check) -> None:
    check(url)


WRONG_URLS = {
    "scheme": ("http://me:{}@host/x", "must begin with"),
    "no scheme": ("me:{}@host/x", "must begin with"),
    "slash": ("{s}://me:{}/X9@host/x", "/ as %2F"),
    "slash, and a piece that is a port": ("{s}://me:1234/{}@host/x", "/ as %2F"),
    "at": ("{s}://me:{}@X9@host/x", "@ as %40"),
    "at and slash": ("{s}://me:{}@X9/y@host/x", "@ as %40"),
    "hash": ("{s}://me:{}#X9@host/x", "# as %23"),
    "hash at the end": ("{s}://me:1234#{}@host/x", "# as %23"),
    "question mark": ("{s}://me:{}?X9@host/x", "? as %3F"),
    "question mark, and a piece that is a port": ("{s}://me:12?{}@host/x", "? as %3F"),
    "question mark after a user": ("{s}://me:x@host/x?{}", "parameters"),
    "bracket": ("{s}://me:{}[X9@host/x", "[ as %5B"),
    "port": ("{s}://me:{}@host:port/x", "a port from 1 to 65535"),
    "label of a host": (f"{{s}}://me:{{}}@{'h' * 64}/x", "must name a host"),
    "empty label of a host": ("{s}://me:{}@host..name/x", "must name a host"),
    "port 0": ("{s}://me:{}@host:0/x", "a port from 1 to 65535"),
    "port 65536": ("{s}://me:{}@host:65536/x", "a port from 1 to 65535"),
    "no port": ("{s}://me:{}@host:/x", "a port from 1 to 65535"),
    "line end": ("{s}://me:{}@host/x\n", "white space"),
    "blank": ("{s}://me:{} @host/x", "white space"),
}
CHECKS: dict[str, Check] = {"amqp": check_amqp_urls, "postgresql": check_database_url}


@pytest.mark.parametrize(("template", "sentence"), WRONG_URLS.values(), ids=WRONG_URLS.keys())
@pytest.mark.parametrize("scheme", CHECKS)
def test_a_wrong_url_is_refused_and_not_quoted(scheme: str, template: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as refused:
        CHECKS[scheme](template.format("Secr3t", s=scheme))
    assert "Secr3t" not in str(refused.value)
    assert "X9" not in str(refused.value)


@pytest.mark.parametrize(
    ("urls", "sentence"),
    [
        (",".join(["amqp://node"] * 17), "at most 16 URLs"),
        ("amqp://me:Secr3t@n1,,amqp://n2", "must name a host"),
        ("amqp://me:Secr3t@n1,", "must name a host"),
        ("amqp://n1,http://me:Secr3t@n2", "@ as %40"),
        ("amqp://n1,amqp://me:Secr3t/x@n2", "/ as %2F"),
    ],
)
def test_each_url_of_a_cluster_is_checked(urls: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as refused:
        check_amqp_urls(urls)
    assert "Secr3t" not in str(refused.value)


CREDENTIALS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)


@given(CREDENTIALS, CREDENTIALS)
def test_percent_encoded_credentials_are_read_by_the_libraries(user: str, password: str) -> None:
    """By the libraries of both services, whatever the characters are."""
    credentials = f"{quote(user, safe='')}:{quote(password, safe='')}"
    amqp, postgresql = f"amqp://{credentials}@host:1/x", f"postgresql://{credentials}@host:1/x"
    check_amqp_urls(amqp)
    check_database_url(postgresql)
    assert (URL(amqp).user, URL(amqp).password, URL(amqp).host) == (user, password, "host")
    parts = urlsplit(postgresql)
    assert (unquote(parts.username or ""), unquote(parts.password or ""), parts.hostname) == (user, password, "host")


@given(st.text("ab1:/@#?&=,[]%+.", max_size=20))
@pytest.mark.parametrize("scheme", CHECKS)
def test_the_libraries_can_read_every_url_that_is_accepted(scheme: str, rest: str) -> None:
    """Otherwise a library would refuse it later, and quote it."""
    url = f"{scheme}://{rest}"
    try:
        CHECKS[scheme](url)
    except ValueError:
        return
    if scheme == "amqp":
        assert URL(url).host
    else:
        for address in urlsplit(url).netloc.rpartition("@")[2].split(","):
            assert urlsplit(f"//{address}").port != 0
