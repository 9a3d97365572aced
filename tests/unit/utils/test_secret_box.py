"""What rests encrypted: keys, rotation, damage, masked forms; the keys' file in DATA_DIR."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from typer.testing import CliRunner

from config import ConfigurationError, Settings
from models.entities import SEALED_PREFIX
from services.commands.app import app
from services.housekeeping.secrets import KEY_FILE, open_box
from utils.exceptions import SecretUnreadable
from utils.secret_box import _SHOWN, PREFIX, SecretBox, is_key, key_id, new_key
from utils.urls import MASK, is_masked

URL = "rtsp://user:p%40ss-S3cr3t@10.0.0.1/x?token=S3cr3t"
OLD, NEW = new_key(), new_key()


def test_what_is_kept_of_a_sealed_url_is_what_it_shows_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    box, opens = SecretBox([OLD]), list[str]()
    monkeypatch.setattr(box, "open", lambda stored: opens.append(stored) or URL)  # type: ignore[func-returns-value]
    sealed = box.seal_url(URL)
    assert SecretBox([OLD]).masked(sealed) == box.masked(sealed) == "rtsp://10.0.0.1/x"
    assert not opens
    others = [SecretBox([OLD]).seal(URL) for _ in range(_SHOWN)]
    assert {box.masked(other) for other in (*others, *others)} == {"rtsp://10.0.0.1/x"}
    assert opens == others
    assert box.masked(sealed) == "rtsp://10.0.0.1/x"
    assert opens[-1] == sealed


def test_what_is_sealed_is_opened_and_shows_nothing() -> None:
    box = SecretBox([OLD])
    sealed = box.seal(URL)
    assert box.open(sealed) == URL
    assert sealed.startswith(f"enc1:{key_id(OLD)}:")
    for text in (sealed, repr(box), str(box)):
        assert "S3cr3t" not in text
        assert OLD not in text
    assert box.seal(URL) != sealed
    assert PREFIX == SEALED_PREFIX


def test_the_first_key_seals_and_all_open() -> None:
    before, after = SecretBox([OLD]), SecretBox([NEW, OLD])
    assert after.open(before.seal(URL)) == URL
    assert SecretBox([NEW]).open(after.seal(URL)) == URL
    with pytest.raises(SecretUnreadable):
        before.open(after.seal(URL))


def test_text_from_before_encryption_is_read_as_it_is() -> None:
    assert SecretBox([OLD]).open(URL) == URL
    assert SecretBox([OLD]).masked(URL) == "rtsp://10.0.0.1/x"


def test_a_missing_key_and_damage_are_told_apart_without_secrets() -> None:
    sealed = SecretBox([OLD]).seal(URL)
    with pytest.raises(SecretUnreadable, match=f"key {key_id(OLD)}.*SECRETS__KEYS") as missing:
        SecretBox([NEW]).open(sealed)
    with pytest.raises(SecretUnreadable, match="damaged") as damaged:
        SecretBox([OLD]).open(sealed[:-8])
    for caught in (missing, damaged):
        assert "S3cr3t" not in str(caught.value)
        assert sealed[20:40] not in str(caught.value)
    assert SecretBox([NEW]).masked(sealed) == MASK
    for text in ("enc1:", "enc1:x:y", "enc1::"):
        with pytest.raises(SecretUnreadable):
            SecretBox([OLD]).open(text)


def test_keys_by_their_form() -> None:
    assert is_key(Fernet.generate_key().decode())
    for text in ("", "x", OLD[:-1], OLD + "=", OLD.replace(OLD[3], "+", 1), OLD + "\n"):
        assert not is_key(text)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("rtsp://u:***@h/x", True), ("rtsp://h/x?token=***", True), ("rtsp://u:p@h/x", False), ("rtsp://h/***", False),
        ("rtsp://h/x", False), ("rtsp://u:***@h/x?token=real", True), ("rtsp://***:***@h/x", True),
        ("rtsp://***@h/x", False), ("rtsp://h/user=***_password=***_channel=1.sdp", True),
    ],
)  # fmt: skip
def test_masked_urls_are_recognised(url: str, masked: bool) -> None:
    assert is_masked(url) is masked


def settings(folder: Path, **values: object) -> Settings:
    return Settings(_env_file=None, DATA_DIR=folder, **values)  # type: ignore[arg-type]


def test_without_keys_one_is_made_and_kept(tmp_path: Path) -> None:
    sealed = open_box(settings(tmp_path)).seal(URL)
    path = tmp_path / KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    keys = json.loads(path.read_text())
    assert open_box(settings(tmp_path)).open(sealed) == URL
    assert open_box(settings(tmp_path, SECRETS={"KEYS": [NEW, *keys]})).open(sealed) == URL  # its text is the setting's
    assert json.loads(path.read_text()) == keys


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '["x"]', "[1]", OLD, "\udcff"],
    ids=["empty", "object", "none", "short", "number", "bare", "bytes"],
)
def test_a_damaged_key_file_is_never_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / KEY_FILE
    path.write_bytes(os.fsencode(text))
    with pytest.raises(ConfigurationError, match=r"secrets\.keys") as caught:
        open_box(settings(tmp_path))
    assert OLD not in str(caught.value)
    assert path.read_bytes() == os.fsencode(text)


def test_production_makes_no_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="SECRETS__KEYS"):
        open_box(settings(tmp_path, ENVIRONMENT="production"))
    assert not (tmp_path / KEY_FILE).exists()


def test_the_command_makes_keys() -> None:
    done = CliRunner().invoke(app, ["secrets", "new"])
    assert done.exit_code == 0
    assert is_key(done.stdout.strip())
