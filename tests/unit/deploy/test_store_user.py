"""deploy/s3-user-minio.sh with an `mc` that writes down what it is told: the steps, and that no secret is an argument."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.s3_policy import policy_for

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {
    "S3_ENDPOINT": "http://127.0.0.1:9000", "S3_POLICY": str(ROOT / "deploy" / "s3-policy.json"), "S3_ROOT_USER": "root",
    "S3_ROOT_PASSWORD": "root secret $x\\n", "STORAGE__ACCESS_KEY": "service", "STORAGE__SECRET_KEY": "service secret `y`",
    "STORAGE__BUCKET_NAME": "some.bucket-1",
}  # fmt: skip
MC = """#!/bin/sh
echo "mc $*" >> "$TOLD"
case "$1 $2" in "alias set" | "admin user") sed 's/^/  < /' >> "$TOLD" ;; esac
echo "$SAYS"
[ "$1 $2 $3" != "$FAILS" ]
"""


def made(tmp_path: Path, **changes: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    program, told = tmp_path / "bin" / "mc", tmp_path / "told"
    program.parent.mkdir()
    program.write_text(MC)
    program.chmod(0o755)
    told.touch()
    environment = {
        **ENVIRONMENT, "PATH": f"{program.parent}:/usr/bin:/bin", "TMPDIR": str(tmp_path), "TOLD": str(told), "FAILS": "",
        "SAYS": "mc's own words",
        **changes,
    }  # fmt: skip
    script = ROOT / "deploy" / "s3-user-minio.sh"
    done = subprocess.run(["sh", script], env=environment, capture_output=True, text=True, timeout=20, check=False)
    return done, told.read_text().splitlines()


def test_one_user_with_one_bucket_and_the_policy(tmp_path: Path) -> None:
    done, told = made(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "The service's user has the bucket some.bucket-1.\n"
    assert told == [
        "mc alias set store http://127.0.0.1:9000 --api S3v4", "  < root", f"  < {ENVIRONMENT['S3_ROOT_PASSWORD']}",
        "mc mb --ignore-existing store/some.bucket-1",
        f"mc admin policy create store trackshift {tmp_path}/policy.json",
        "mc admin user add store", "  < service", f"  < {ENVIRONMENT['STORAGE__SECRET_KEY']}",
        "mc admin policy attach store trackshift --user service",
    ]  # fmt: skip
    assert json.loads((tmp_path / "policy.json").read_text()) == policy_for("some.bucket-1")


@pytest.mark.parametrize(
    "changes",
    [
        {"FAILS": "admin policy attach"}, {"FAILS": "admin user add"},
        {"FAILS": "alias set store"}, {"FAILS": "mb --ignore-existing store/some.bucket-1"},
        {"STORAGE__ACCESS_KEY": "root"}, {"S3_POLICY": "/nowhere"},
    ],
)  # fmt: skip
def test_what_fails_ends_the_start(tmp_path: Path, changes: dict[str, str]) -> None:
    done, told = made(tmp_path, **changes)
    assert done.returncode != 0
    assert "secret" not in done.stdout + done.stderr
    assert "The service's user" not in done.stdout
    assert told == [] or changes.get("FAILS") == "admin policy attach" or not any("attach" in line for line in told)


def test_what_is_so_already_is_fine(tmp_path: Path) -> None:
    done, _ = made(tmp_path, FAILS="admin policy attach", SAYS="The specified policy change is already in effect.")
    assert done.returncode == 0
