"""The operator's commands under one entry: `python -m services.commands --help`."""

from __future__ import annotations

import typer

from services.commands import backup, bucket, event_log, keys, retention, schema, secrets, verify

_HELP = """The operator's commands.

Every command reads the service's settings. With embedded parts (no DB__HOST or STORAGE__ENDPOINT) a command uses those of
the service that runs on DATA_DIR; when none does, it starts them for as long as it runs."""
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=_HELP)
app.command("verify")(verify.verify)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("reset-event-log")(event_log.reset)
app.add_typer(keys.app, name="keys")
app.add_typer(secrets.app, name="secrets")
app.add_typer(bucket.app, name="bucket")
app.add_typer(retention.app, name="retention")
app.add_typer(schema.app, name="schema")
