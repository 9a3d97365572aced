-- The bytes of stored frames, kept by appending: one counter row would make all transactions wait for each other.
CREATE OR REPLACE FUNCTION note_usage() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state = 'stored' THEN
            INSERT INTO storage_changes (bytes, frames) VALUES (NEW.size_bytes, 1);
        END IF;
    ELSIF OLD.state = 'stored' AND NEW.state <> 'stored' THEN
        INSERT INTO storage_changes (bytes, frames) VALUES (-OLD.size_bytes, -1);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER frames_note_usage AFTER INSERT OR UPDATE OF state ON frames
    FOR EACH ROW
    EXECUTE FUNCTION note_usage();
