"""`celery -A services.execution.celery_app worker`, as the command runs it, for tests that start a program by its file."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from celery.__main__ import main

if __name__ == "__main__":
    sys.argv = ["celery", "-A", "services.execution.celery_app", "worker"]
    main()
