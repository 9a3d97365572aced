"""What a start does without: a crash's gap is as long as a start, and the tests start services by the dozen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from alembic.script import ScriptDirectory

from repositories.migrations.run import revisions
from services.rtsp_capture.media import decode_job
from services.upload_handler.check_call import CHECK

ROOT = Path(__file__).resolve().parents[3]
# Each is imported by the module that needs it first, which says so: cameras, workers, JWTs, migrations, commands, Redis.
LATE = {
    "cv2",
    "av",
    "numpy",
    "simplejpeg",
    "PIL",
    "pi_heif",
    "joserfc",
    "celery",
    "alembic",
    "mako",
    "rich",
    "pygments",
    "typer",
    "redis",
}
_PROGRAM = """
import sys
from main import create_app
from config import Settings
import api.server, services.runtime
app = create_app(Settings(_env_file=None))
print(*(name for name in sys.argv[1:] if name in sys.modules))
routes = [route for route in app.routes if getattr(route, "response_field", None)]
print(*(route.path for route in routes if route.response_field._type_adapter.pydantic_complete))
"""


def test_a_start_imports_nothing_that_only_some_processes_need() -> None:
    said = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *sorted(LATE)], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    imported, built = said.splitlines()
    assert imported == ""
    assert built == "/health/ready"  # answers' models are built when they are first given; this one has none


def test_worker_processes_import_what_decodes_and_nothing_of_a_service() -> None:
    """One is started beside nearly every service that captures or takes an upload: metrics cost it a tenth of a second."""
    modules = {decode_job.DECODE.partition(":")[0], *decode_job.PRELOAD, CHECK.partition(":")[0]}
    program = "import sys, importlib; [importlib.import_module(name) for name in sys.argv[1:]]; print(*sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", program, *sorted(modules)], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {"av", "PIL"} <= set(said.split())
    assert {"prometheus_client", "pydantic", "structlog", "sqlalchemy", "fastapi", "boto3"} & set(said.split()) == set()


def test_the_newest_migration_is_known_without_alembic() -> None:
    scripts = ScriptDirectory(str(ROOT / "repositories" / "migrations"))
    assert revisions() == [script.revision for script in scripts.walk_revisions()]
