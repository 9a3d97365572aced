-- Rows of the audit are neither changed nor removed before their time.
CREATE OR REPLACE FUNCTION keep_audit() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND OLD.keep_until < now() THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'rows of the audit are neither changed nor removed before their time'
        USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE OR REPLACE TRIGGER keep_rows BEFORE UPDATE OR DELETE ON audit
    FOR EACH ROW
    EXECUTE FUNCTION keep_audit();

CREATE OR REPLACE TRIGGER keep_table BEFORE TRUNCATE ON audit
    FOR EACH STATEMENT
    EXECUTE FUNCTION keep_audit();
