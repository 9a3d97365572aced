-- Changes of keys and browser sessions: the version is for processes that poll, NOTIFY for those that listen.
CREATE OR REPLACE FUNCTION report_access() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE access_state SET version = version + 1 WHERE id = 1;
    PERFORM pg_notify('trackshift_access', '');
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER report_key
    AFTER UPDATE OF secret_hash, previous_hash, previous_until, scopes, cameras, expires_at, revoked_at OR DELETE ON api_keys
    FOR EACH STATEMENT
    EXECUTE FUNCTION report_access();

CREATE OR REPLACE TRIGGER report_session AFTER UPDATE OR DELETE ON browser_sessions
    FOR EACH STATEMENT
    EXECUTE FUNCTION report_access();
