"""SQL functions of migration 0010: changes of keys and sessions are told to every process; the audit is append-only."""

from __future__ import annotations

# The version is for processes that poll, NOTIFY for those that listen; both come with the commit.
TELL_ACCESS = """
CREATE OR REPLACE FUNCTION tell_access() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE access_state SET version = version + 1 WHERE id = 1;
    PERFORM pg_notify('trackshift_access', '');
    RETURN NULL;
END $$
"""

KEEP_AUDIT = """
CREATE OR REPLACE FUNCTION keep_audit() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.keep_until < now() THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'rows of the audit are neither changed nor removed before their time'
        USING ERRCODE = 'insufficient_privilege';
END $$
"""

TRIGGERS = (
    "CREATE OR REPLACE TRIGGER tell_key AFTER UPDATE OF secret_hash, previous_hash, previous_until, scopes, cameras,"
    " expires_at, revoked_at OR DELETE ON api_keys FOR EACH STATEMENT EXECUTE FUNCTION tell_access()",
    "CREATE OR REPLACE TRIGGER tell_session AFTER UPDATE OR DELETE ON browser_sessions FOR EACH STATEMENT"
    " EXECUTE FUNCTION tell_access()",
    "CREATE OR REPLACE TRIGGER keep_rows BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION keep_audit()",
    "CREATE OR REPLACE TRIGGER keep_table BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION keep_audit()",
)

CREATE_OR_REPLACE = (TELL_ACCESS, KEEP_AUDIT, *TRIGGERS)
DROP = (
    "DROP TRIGGER keep_table ON audit",
    "DROP TRIGGER keep_rows ON audit",
    "DROP TRIGGER tell_session ON browser_sessions",
    "DROP TRIGGER tell_key ON api_keys",
    "DROP FUNCTION keep_audit()",
    "DROP FUNCTION tell_access()",
)
