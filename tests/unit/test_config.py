"""Settings: environment and .env, bounds, secrets, the database URL, refusals to start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import SecretStr, ValidationError
from pydantic_settings import SettingsError
from sqlalchemy import URL, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from config import ConfigurationError, DbSettings, Environment, Settings, database_url, get_settings

SECRET = "s3cr3t-@/:#?%-value"
KEY = "s3cr3t" + 37 * "A" + "="  # a Fernet key by its form
SECRET_NAMES = ("DB__PASSWORD", "STORAGE__ACCESS_KEY", "STORAGE__SECRET_KEY", "REDIS__PASSWORD")


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine that runs the tests, and a folder without .env."""
    tops = {name.lower() for name in Settings.model_fields}
    for name in list(os.environ):
        if name.lower().split("__")[0] in tops:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def refused(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((ValidationError, SettingsError)) as caught:
        Settings()
    return str(caught.value)


def test_defaults_start_on_embedded_parts(tmp_path: Path) -> None:
    settings = Settings()
    assert settings.ENVIRONMENT is Environment.DEVELOPMENT
    assert (settings.API.HOST, settings.API.PORT) == ("127.0.0.1", 8000)
    assert (settings.DB.HOST, settings.STORAGE.ENDPOINT, settings.REDIS.HOST) == ("", "", "")
    data_dir = settings.DATA_DIR
    assert data_dir == tmp_path / "data"
    assert settings.temp_dir == tmp_path / "data" / "tmp"
    assert settings.start_refusals() == []
    settings.check_start()


def test_environment_is_nested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB__HOST", "db.example")
    monkeypatch.setenv("DB__PASSWORD", SECRET)
    monkeypatch.setenv("RTSP__DEFAULT_FPS", "0.1")
    monkeypatch.setenv("api__cors_origins", '["https://pit.example"]')
    settings = Settings()
    assert settings.DB.HOST == "db.example"
    assert settings.DB.PASSWORD.get_secret_value() == SECRET
    assert settings.RTSP.DEFAULT_FPS == 0.1
    assert settings.API.CORS_ORIGINS == ["https://pit.example"]


def test_dotenv_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        f"API__PORT=9000\nLOG__LEVEL=DEBUG\nDB__PASSWORD='{SECRET}'\nDATA_DIR=/srv/trackshift\n# API__HOST=1.2.3.4\n"
    )
    monkeypatch.setenv("LOG__LEVEL", "ERROR")
    settings = Settings()
    assert settings.API.PORT == 9000
    assert settings.LOG.LEVEL == "ERROR"
    assert settings.DB.PASSWORD.get_secret_value() == SECRET
    assert str(settings.DATA_DIR) == "/srv/trackshift"
    assert settings.API.HOST == "127.0.0.1"


def test_get_settings_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    get_settings.cache_clear()
    try:
        first = get_settings()
        monkeypatch.setenv("API__PORT", "9999")
        assert get_settings() is first
    finally:
        get_settings.cache_clear()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENVIRONMENT", "staging"),
        ("API__PORT", "65536"),
        ("API__SHUTDOWN_TIMEOUT", "0"),
        ("DB__PORT", "0"),
        ("DB__NAME", ""),
        ("DB__SSL", "maybe"),
        ("DB__POOL_SIZE", "0"),
        ("STORAGE__BUCKET_NAME", "Not_A_Bucket"),
        ("STORAGE__PRESIGN_EXPIRY", "604801"),
        ("RTSP__MAX_CONCURRENT_STREAMS", "0"),
        ("RTSP__DEFAULT_FPS", "31"),
        ("RTSP__DEFAULT_FPS", "0"),
        ("RTSP__RECONNECT_DELAY", "nan"),
        ("RTSP__ALLOWED_NETWORKS", '["10.0.0.0/33"]'),
        ("RTSP__ALLOWED_NETWORKS", '["10.0.0.1/8"]'),
        ("RTSP__READER", "gstreamer"),
        ("UPLOAD__ALLOWED_EXTENSIONS", '["exe"]'),
        ("UPLOAD__EXIF_TIMEZONE", "Europe/Nowhere"),
        ("UPLOAD__EXIF_TIMEZONE", "../../etc/passwd"),
        ("LOG__LEVEL", "loud"),
        ("AUTH__MODE", "maybe"),
        ("SECRETS__KEYS", '["too short"]'),
        ("SECRETS__KEYS", '["' + 43 * "+" + '="]'),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    message = refused(monkeypatch, **{name: value})
    for part in name.split("__"):
        assert part in message


def test_an_unknown_name_in_a_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "HOSTNAME" in refused(monkeypatch, DB__HOSTNAME="db.example").upper()


def test_an_unknown_top_name_is_somebody_elses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LANGUAGE", "en")
    (tmp_path / ".env").write_text("COMPOSE_PROJECT_NAME=trackshift\n")
    Settings()


def test_settings_that_contradict_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "RTSP__RECONNECT_MAX_DELAY" in refused(monkeypatch, RTSP__RECONNECT_DELAY="31")
    monkeypatch.delenv("RTSP__RECONNECT_DELAY")
    assert "STORAGE__ACCESS_KEY" in refused(monkeypatch, STORAGE__ENDPOINT="s3.example:9000")


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_secret_is_in_no_text_of_the_settings(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, SECRET)
    settings = Settings()
    for text in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert SECRET not in text
        assert "s3cr3t" not in text


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_an_error_shows_no_value(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    group = name.split("__")[0]
    errors = [
        refused(monkeypatch, **{name: SECRET, f"{group}__UNKNOWN": SECRET}),
        refused(monkeypatch, **{name: SECRET, "API__PORT": SECRET}),
        refused(monkeypatch, **{name: SECRET, "API__CORS_ORIGINS": f'["{SECRET}'}),
    ]
    monkeypatch.delenv(f"{group}__UNKNOWN")
    errors.append(refused(monkeypatch, **{name: SECRET, group: f'{{"PASSWORD": "{SECRET}"'}))
    for text in errors:
        assert "s3cr3t" not in text


def test_keys_are_in_no_text_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRETS__KEYS", f'["{KEY}", "{KEY}"]')
    settings = Settings()
    assert [key.get_secret_value() for key in settings.SECRETS.KEYS] == [KEY, KEY]
    for text in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert "s3cr3t" not in text
    assert "s3cr3t" not in refused(monkeypatch, SECRETS__KEYS=f'["{KEY[:-2]}"]')
    assert "s3cr3t" not in refused(monkeypatch, SECRETS__KEYS=KEY)


PASSWORDS = ["plain", "p@ss", "a/b", "a:b", "a#b", "a?b=c&d", "100%", "%40", "sp ace+plus", "пароль", "@/:#?%&=+ '\"\\"]


def connect_arguments(url: URL) -> dict[str, Any]:
    """What create_async_engine(url) hands to asyncpg."""
    dialect: Any = create_async_engine(url).dialect
    arguments: dict[str, Any] = dialect.create_connect_args(url)[1]
    return arguments


@pytest.mark.parametrize("password", PASSWORDS)
def test_any_password_survives_the_database_url(password: str) -> None:
    db = DbSettings(HOST="db.example", PORT=5433, NAME="track/shift", USER="us@er:x", PASSWORD=SecretStr(password))
    parsed = make_url(database_url(db).render_as_string(hide_password=False))
    assert (parsed.username, parsed.password, parsed.host, parsed.port, parsed.database) == (
        "us@er:x", password, "db.example", 5433, "track/shift",
    )  # fmt: skip
    arguments = connect_arguments(parsed)
    assert arguments["password"] == password
    assert arguments["user"] == "us@er:x"
    assert arguments["database"] == "track/shift"
    assert arguments["host"] == "db.example"
    assert f":{quote(password, safe='')}@" not in str(database_url(db))
    assert ":***@" in str(database_url(db))


def test_a_socket_folder_as_host() -> None:
    db = DbSettings(HOST="/run/post gres", PORT=5433, PASSWORD=SecretStr(""))
    parsed = make_url(database_url(db).render_as_string(hide_password=False))
    arguments = connect_arguments(parsed)
    assert arguments["host"] == "/run/post gres"
    assert str(arguments["port"]) == "5433"
    assert arguments.get("password") is None


def production(monkeypatch: pytest.MonkeyPatch, **changes: str) -> list[str]:
    good = {
        "ENVIRONMENT": "production", "DB__HOST": "db.example", "DB__PASSWORD": "own-1",
        "DB__SSL": "verify-full",
        "STORAGE__ENDPOINT": "https://s3.example", "STORAGE__ACCESS_KEY": "own-2", "STORAGE__SECRET_KEY": "own-3",
        "SECRETS__KEYS": f'["{KEY}"]',
    }  # fmt: skip
    for name, value in (good | changes).items():
        monkeypatch.setenv(name, value)
    return Settings().start_refusals()


def test_production_starts_on_parts_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert production(monkeypatch) == []


def test_production_refuses_embedded_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    reasons = Settings().start_refusals()
    assert [reason.split()[0] for reason in reasons] == ["DB__HOST", "STORAGE__ENDPOINT", "SECRETS__KEYS"]


def test_production_names_every_reason_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = production(
        monkeypatch, DB__PASSWORD="Postgres", STORAGE__ACCESS_KEY="minioadmin", STORAGE__SECRET_KEY="minioadmin",
        SECRETS__KEYS="[]", API__CORS_ORIGINS='["*"]', API__CORS_CREDENTIALS="true", API__HOST="0.0.0.0",
    )  # fmt: skip
    text = "\n".join(reasons)
    for name in (
        "DB__PASSWORD", "STORAGE__ACCESS_KEY", "STORAGE__SECRET_KEY", "API__CORS_ORIGINS", "API__HOST", "SECRETS__KEYS",
    ):  # fmt: skip
        assert name in text
    assert "minioadmin" not in text
    with pytest.raises(ConfigurationError) as caught:
        Settings().check_start()
    assert caught.value.reasons == reasons


def test_production_takes_a_socket_without_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    assert production(monkeypatch, DB__HOST="/run/postgresql", DB__PASSWORD="") == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"DB__SSL": "prefer"}, ["DB__SSL"]),
        ({"DB__SSL": "prefer", "DB__HOST": "/run/postgresql"}, []),
        ({"DB__SSL": "disable"}, []),
        ({"DB__SSL": "require"}, []),
        ({"STORAGE__ENDPOINT": "http://s3.example"}, ["STORAGE__ENDPOINT"]),
        ({"STORAGE__ENDPOINT": "HTTP://127.0.0.1:9000"}, ["STORAGE__ENDPOINT"]),
        ({"STORAGE__ENDPOINT": "s3.example:9000"}, ["STORAGE__ENDPOINT"]),
        ({"STORAGE__ENDPOINT": "s3.example:9000", "STORAGE__SECURE": "true"}, []),
        ({"STORAGE__PUBLIC_ENDPOINT": "http://frames.example"}, ["STORAGE__PUBLIC_ENDPOINT"]),
        ({"STORAGE__PUBLIC_ENDPOINT": "http://frames.example", "STORAGE__ALLOW_HTTP": "true"}, []),
        ({"STORAGE__ENDPOINT": "http://s3.example", "STORAGE__ALLOW_HTTP": "true", "DB__SSL": "prefer"}, ["DB__SSL"]),
        ({"REDIS__HOST": "redis.example", "REDIS__PASSWORD": "own-4"}, ["REDIS__TLS"]),
        ({"REDIS__HOST": "redis.example", "REDIS__PASSWORD": "own-4", "REDIS__TLS": "true"}, []),
        ({"REDIS__HOST": "redis.example", "REDIS__PASSWORD": "own-4", "REDIS__ALLOW_PLAIN": "true"}, []),
        ({"REDIS__HOST": "127.0.0.1", "REDIS__PASSWORD": "own-4"}, []),
    ],
)
def test_production_takes_no_plain_connection_that_nobody_named(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], named: list[str]
) -> None:
    reasons = production(monkeypatch, **changes)
    assert [reason.split()[0] for reason in reasons] == named
    for reason in reasons:  # the error says which setting mends it
        mends = {"STORAGE": "STORAGE__ALLOW_HTTP", "REDIS": "REDIS__ALLOW_PLAIN", "DB": "verify-full"}
        assert mends[reason.partition("__")[0]] in reason


def test_production_asks_for_a_password_of_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = production(monkeypatch, REDIS__HOST="127.0.0.1", REDIS__PASSWORD="password")
    assert [reason.split()[0] for reason in reasons] == ["REDIS__PASSWORD"]
    assert production(monkeypatch, REDIS__HOST="", REDIS__PASSWORD="") == []


def test_production_by_default_has_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    assert production(monkeypatch) == []
    monkeypatch.delenv("DB__SSL")
    monkeypatch.setenv("STORAGE__ENDPOINT", "s3.example:9000")
    assert [reason.split()[0] for reason in Settings().start_refusals()] == ["DB__SSL", "STORAGE__ENDPOINT"]


def test_cameras_on_loopback_only_outside_production(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "127.0.0.0/8" in Settings().camera_networks
    monkeypatch.setenv("ENVIRONMENT", "production")
    assert "127.0.0.0/8" not in Settings().camera_networks
    monkeypatch.setenv("RTSP__ALLOWED_NETWORKS", '["127.0.0.1/32"]')
    assert Settings().camera_networks == ["127.0.0.1/32"]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"DB__POOLER": "statement", "DB__HOST": "pool"}, "'none', 'session' or 'transaction'"),
        ({"DB__POOLER": "transaction"}, "DB__HOST is empty"),
        ({"DB__HOST": "db", "DB__DIRECT_HOST": "other"}, "DB__POOLER is none"),
        ({"DB__HOST": "pool", "DB__POOLER": "session", "DB__DIRECT_HOST": "pool"}, "the pooler's own"),
        ({"DB__HOST": "pool", "DB__POOLER": "session", "DB__DIRECT_HOST": "db", "DB__DIRECT_PORT": "0"}, "DIRECT_PORT"),
    ],
)
def test_a_pooler_and_the_address_behind_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], reason: str
) -> None:
    assert reason in refused(monkeypatch, **environment)


def test_the_direct_address_is_postgresql_itself() -> None:
    db = DbSettings(HOST="pool", PORT=6432, POOLER="transaction", DIRECT_HOST="db", DIRECT_PORT=5433, USER="me")
    assert (db.direct.HOST, db.direct.PORT, db.direct.POOLER, db.direct.USER) == ("db", 5433, "none", "me")
    alone = DbSettings(HOST="pool", POOLER="transaction")
    assert alone.direct is alone
