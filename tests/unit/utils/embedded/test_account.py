"""The account that the embedded PostgreSQL runs as, when the service is root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# Says when it begins and ends. Between the two is time for all others to begin.
USERADD = """#!/bin/bash
echo begin >> {told}
sleep 0.5
echo end >> {told}
exit 9
"""
ASK = """
from utils.embedded import account
account.ACCOUNT = "trackshift-nobody-has-this"
print(account._system_account().pw_name)
"""


def test_processes_that_start_at_once_make_the_account_one_after_the_other(tmp_path: Path) -> None:
    """Two useradd at once both say that they succeeded, and the second takes the first one's user away."""
    told, useradd = tmp_path / "told", tmp_path / "useradd"
    told.touch()
    useradd.write_text(USERADD.format(told=told))
    useradd.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    asked = [
        subprocess.Popen(
            [sys.executable, "-c", ASK], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = [each.communicate(timeout=60) for each in asked]
    assert [out.splitlines()[-1] for out, _ in said] == ["nobody"] * 3, said  # which is told: the account cannot be made
    assert told.read_text().split() == ["begin", "end"] * 3
