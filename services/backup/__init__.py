"""A service's state in one folder, out and in: rows, objects, spool, keys (docs/backup.md)."""
