-- A frame that is deleted keeps what the ledger and a late twin need: ids, slot, times, sizes, hash. What says who or where
-- (the file's name, meta, EXIF) goes in the UPDATE that deletes it, whoever writes that UPDATE.
CREATE OR REPLACE FUNCTION blank_frame() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.filename := NULL;
    NEW.exif := NULL;
    NEW.meta := '{}';
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER blank_deleted BEFORE UPDATE OF state ON frames
    FOR EACH ROW WHEN (NEW.state <> 'stored')
    EXECUTE FUNCTION blank_frame();
