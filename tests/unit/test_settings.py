"""Settings come from the environment only, are checked before anything starts, and do not show secrets."""

import json
import os
import re
from pathlib import Path
from typing import TypeVar

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from worker.database.pool import session_settings
from worker.settings import (
    ORGANISATIONS_BYTES_MAX,
    BrokerSettings,
    DatabaseSettings,
    WorkerSettings,
    effective_settings,
    read_organisations,
)

AMQP_URL = "amqp://guest:amqp-secret@broker/vhost"
DATABASE_URL = "postgresql://me:database-secret@server/runs"

Environment = pytest.MonkeyPatch
Settings = TypeVar("Settings", bound=BaseSettings)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    """An environment with the two URLs, and no other variable of ours."""
    for name in list(os.environ):
        if name.upper().startswith("EXPORT_RUNS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EXPORT_RUNS_AMQP_URL", AMQP_URL)
    monkeypatch.setenv("EXPORT_RUNS_DATABASE_URL", DATABASE_URL)
    return monkeypatch


def from_environment(model: type[Settings]) -> Settings:
    return model()


def refused_fields() -> list[str]:
    """The settings with a wrong value in the environment. There must be one."""
    with pytest.raises(ValidationError) as refused:
        from_environment(WorkerSettings)
    return [".".join(map(str, each["loc"])) for each in refused.value.errors()]


def test_two_urls_are_enough() -> None:
    settings = from_environment(WorkerSettings)
    assert settings.amqp_url.get_secret_value() == AMQP_URL
    assert settings.database_url.get_secret_value() == DATABASE_URL
    assert settings.reply_queue_prefixes == ("reply.",)
    assert settings.purge_enabled is False


def test_the_urls_of_a_cluster_keep_their_order_after_a_random_first(environment: Environment) -> None:
    urls = ("amqp://me:a,b@first", "amqp://second/x", "amqps://third:5671")
    environment.setenv("EXPORT_RUNS_AMQP_URL", ",".join(urls))
    settings = from_environment(WorkerSettings)
    assert settings.amqp_urls == urls
    orders = {settings.from_random_url().amqp_urls for _ in range(200)}
    assert orders == {urls, urls[1:] + urls[:1], urls[2:] + urls[:2]}


@pytest.mark.parametrize(
    ("url", "urls"),
    [
        (
            "postgresql://me:a,b@h1:5432,h2,[::1]:5433/runs?sslmode=require",
            (
                "postgresql://me:a,b@h1:5432/runs?sslmode=require",
                "postgresql://me:a,b@h2/runs?sslmode=require",
                "postgresql://me:a,b@[::1]:5433/runs?sslmode=require",
            ),
        ),
        ("postgresql://h1,h2", ("postgresql://h1", "postgresql://h2")),
        ("postgresql:///runs?host=/run", ("postgresql:///runs?host=/run",)),
    ],
)
def test_each_host_of_a_database_has_a_url(url: str, urls: tuple[str, ...]) -> None:
    assert DatabaseSettings.model_validate({"database_url": url}).database_urls == urls


@pytest.mark.parametrize("name", ["amqp_url", "database_url"])
def test_a_missing_url_is_named(environment: Environment, name: str) -> None:
    environment.delenv(f"EXPORT_RUNS_{name.upper()}")
    assert refused_fields() == [name]


def test_a_command_needs_only_the_url_that_it_uses(environment: Environment) -> None:
    environment.delenv("EXPORT_RUNS_AMQP_URL")
    assert from_environment(DatabaseSettings).statement_timeout_s == 10
    environment.delenv("EXPORT_RUNS_DATABASE_URL")
    environment.setenv("EXPORT_RUNS_AMQP_URL", AMQP_URL)
    assert from_environment(BrokerSettings).heartbeat_s == 10


def test_a_dotenv_file_is_not_read(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("EXPORT_RUNS_PURGE_ENABLED=true\n")
    environment.chdir(tmp_path)
    assert from_environment(DatabaseSettings).purge_enabled is False


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("answers.", ("answers.",), id="one"),
        pytest.param("reply.,answers.", ("reply.", "answers."), id="two"),
        pytest.param(" reply. , ,answers.,", ("reply.", "answers."), id="spaces and empty parts"),
        pytest.param("", (), id="none"),
    ],
)
def test_prefixes_are_separated_by_commas(environment: Environment, value: str, expected: tuple[str, ...]) -> None:
    environment.setenv("EXPORT_RUNS_REPLY_QUEUE_PREFIXES", value)
    assert from_environment(WorkerSettings).reply_queue_prefixes == expected


@pytest.mark.parametrize(
    "value",
    ["export-runs.", "export-runs.rpc.", "export-runs.run-created", "export-runs", "e", "reply.,export"],
)
def test_replies_never_go_into_our_own_queues(environment: Environment, value: str) -> None:
    environment.setenv("EXPORT_RUNS_REPLY_QUEUE_PREFIXES", value)
    assert refused_fields() == ["reply_queue_prefixes"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("connect_timeout_s", "0"),
        ("connect_timeout_s", "inf"),
        ("connect_timeout_s", "nan"),
        ("heartbeat_s", "0"),
        ("heartbeat_s", "601"),
        ("statement_timeout_s", "0"),
        ("statement_timeout_s", "10.1"),
        ("lock_timeout_s", "-1"),
        ("transaction_pooling", "perhaps"),
        ("request_deadline_s", "soon"),
        ("shutdown_s", "0"),
        ("log_level", "trace"),
        ("purge_enabled", "perhaps"),
    ],
)
def test_a_value_out_of_bounds_is_named(environment: Environment, name: str, value: str) -> None:
    environment.setenv(f"EXPORT_RUNS_{name.upper()}", value)
    assert refused_fields() == [name]


def test_secrets_do_not_show(environment: Environment) -> None:
    settings = from_environment(WorkerSettings)
    shown = [repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()]
    environment.setenv("EXPORT_RUNS_HEARTBEAT_S", "hidden-secret")
    with pytest.raises(ValidationError) as refused:
        from_environment(WorkerSettings)
    shown += [str(refused.value), repr(refused.value)]
    assert [text for text in shown if "secret" in text] == []


def test_settings_do_not_change() -> None:
    settings = from_environment(WorkerSettings)
    for name, value in settings:
        with pytest.raises(ValidationError):
            setattr(settings, name, value)


def test_postgresql_gets_its_time_outs_in_milliseconds(environment: Environment) -> None:
    environment.setenv("EXPORT_RUNS_STATEMENT_TIMEOUT_S", "1.5")
    environment.setenv("EXPORT_RUNS_LOCK_TIMEOUT_S", "0.0001")
    session = session_settings(from_environment(DatabaseSettings))
    assert session["statement_timeout"] == "1500"
    assert session["lock_timeout"] == "1", "0 would mean without end"
    assert int(session["idle_in_transaction_session_timeout"]) > 1500


def test_the_effective_settings_have_no_user_and_no_password() -> None:
    settings = WorkerSettings.model_validate(
        {
            "amqp_url": "amqp://alice:S3cret%2F@[::1]:5672/secret-vhost,amqp://alice:S3cret@b/",
            "database_url": "postgresql://bob:S3cret@one:5432,two:5433/secret-db?password=S3cret",
        }
    )
    shown = effective_settings(settings)
    assert shown.keys() == WorkerSettings.model_fields.keys()
    assert (shown["amqp_url"], shown["database_url"]) == ("[::1]:5672,b", "one:5432,two:5433")
    assert shown["shutdown_s"] == 20
    assert not re.search("S3cret|alice|bob|secret", json.dumps(shown))


def test_a_file_of_organisations_is_read(environment: Environment, tmp_path: Path) -> None:
    file = tmp_path / "organisations.toml"
    file.write_text('payroll = ["acme", "globex"]\n"pánel 7" = "*"\n', encoding="utf-8")
    environment.setenv("EXPORT_RUNS_ORGANISATIONS", str(file))
    settings = from_environment(WorkerSettings)
    found = settings.organisations
    assert found is not None
    assert effective_settings(settings)["organisations"] == str(file)
    cases = {
        ("payroll", "acme"): None,
        ("payroll", "Acme"): ("orgId", "is not an organisation of this user"),
        ("payroll", None): ("orgId", "is required"),
        ("pánel 7", "anything"): None,
        ("pánel 7", None): None,
        ("stranger", "acme"): ("user_id", "has no organisations"),
        ("own", "acme"): None,
        (None, "acme"): ("user_id", "is required"),
        ("", "acme"): ("user_id", "is required"),
    }
    for (user_id, org_id), expected in cases.items():
        refusal = found.refusal(user_id, org_id, "own")
        assert (refusal and (refusal.field, refusal.message)) == expected, (user_id, org_id)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b'a = ["x"]\nb = y\n', "is not TOML in UTF-8: .*line 2, column 5"),
        (b'a = "*"\na = "*"', "is not TOML in UTF-8: Cannot overwrite a value"),
        (b"\xff = 1", "is not TOML in UTF-8"),
        (b'a = "x"', 'a: must be "\\*", or a list of at least one organisation'),
        (b"a = []", "a: must be"),
        (b'a = ["acme", ""]', "a: must be"),
        (b"a = [7]", "a: must be"),
        (b'[a]\nb = "*"', "a: must be"),
        (b"#" * (ORGANISATIONS_BYTES_MAX + 1), "has more than 4,194,304 bytes"),
    ],
)
def test_a_wrong_file_of_organisations_is_explained(tmp_path: Path, text: bytes, sentence: str) -> None:
    file = tmp_path / "organisations.toml"
    file.write_bytes(text)
    with pytest.raises(ValueError, match=sentence) as refused:
        read_organisations(str(file))
    assert str(refused.value).startswith(f"{file}: ")
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_organisations(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("url", "user_id"),
    [
        ("amqp://host/", "guest"),
        ("amqp://a%40b:p@host/", "a@b"),
        ("amqps://host/?auth=external", None),
        ("amqps://worker@host/?auth=external", "worker"),
    ],
)
def test_the_user_of_a_url(environment: Environment, tmp_path: Path, url: str, user_id: str | None) -> None:
    environment.setenv("EXPORT_RUNS_AMQP_URL", url)
    assert from_environment(BrokerSettings).user_id == user_id
    file = tmp_path / "organisations.toml"
    file.write_text('a = "*"')
    environment.setenv("EXPORT_RUNS_ORGANISATIONS", str(file))
    if user_id is None:
        assert refused_fields() == ["organisations"]
    else:
        assert from_environment(WorkerSettings).organisations is not None
