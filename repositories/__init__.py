"""PostgreSQL: engine and unit of work (`database`), one repository a table, Alembic migrations."""
