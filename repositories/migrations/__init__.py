"""Alembic migrations, run at start (`run.upgrade`)."""
