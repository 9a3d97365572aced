"""What `main.py` and the commands import, imported: the server that `forked.py` forks processes from begins with this."""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil

_before = dict(os.environ)
gc.disable()  # what is imported stays
# And what is imported late, by nearly every test of a service.
_late = ("alembic.command", "boto3.s3.inject", "cv2", "encodings.idna", "numpy")
for _name in ("main", "api.server", "services.runtime", *_late):
    importlib.import_module(_name)
_commands = importlib.import_module("services.commands")
for _found in pkgutil.iter_modules(_commands.__path__):
    if _found.name != "__main__":
        importlib.import_module(f"services.commands.{_found.name}")
_client = importlib.import_module("services.storage_service.client")  # reads the description of S3
_client.make_client("http://127.0.0.1:9", "us-east-1", "-", "-", timeouts=(1, 1), attempts=1, connections=1)
gc.enable()
gc.freeze()  # a collection in a child would copy the pages that it shares with all others

# Variables that libraries read later, and that a process of its own would have set by its imports.
SET_BY_IMPORTS = {name: value for name, value in os.environ.items() if _before.get(name) != value}
