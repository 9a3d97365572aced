"""A service's state in one folder, out and in: rows, objects, spool, keys (docs: SETUP_GUIDE.md, "Backup and restore")."""
