-- What copies of a deleted frame's name, meta and EXIF there are: its frame.stored event, pending or in the log, and the
-- upload session that brought it. Blanked in the transaction of the delete. Events first where they are pending: one that
-- the relay is moving is waited for, and then found in the log. Rows are locked in the order in which the relay and
-- expire_events take them.
CREATE OR REPLACE FUNCTION blank_copies() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    gone text[];
    requests uuid[];
    blank jsonb := '{"filename": null, "exif": null, "meta": {}}';
BEGIN
    SELECT array_agg(n.id::text), array_agg(n.request_id) INTO gone, requests
    FROM changed n JOIN former o ON o.id = n.id
    WHERE o.state = 'stored' AND n.state <> 'stored';
    IF gone IS NULL THEN
        RETURN NULL;
    END IF;
    WITH mine AS (
        SELECT p.id FROM outbox_pending p
        WHERE p.event ->> 'type' = 'frame.stored' AND p.event ->> 'subject' = ANY (gone) ORDER BY p.id FOR UPDATE
    )
    UPDATE outbox_pending p SET event = jsonb_set(p.event, '{data}', (p.event -> 'data') || blank)
    FROM mine WHERE p.id = mine.id;
    WITH mine AS (
        SELECT e.seq FROM events e
        WHERE e.type = 'frame.stored' AND e.event ->> 'subject' = ANY (gone) ORDER BY e.seq FOR UPDATE
    )
    UPDATE events e SET event = jsonb_set(e.event, '{data}', (e.event -> 'data') || blank)
    FROM mine WHERE e.seq = mine.seq;
    UPDATE upload_sessions s SET filename = '', meta = '{}' WHERE s.request_id = ANY (requests);
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER blank_copies_of_deleted AFTER UPDATE ON frames
    REFERENCING OLD TABLE AS former NEW TABLE AS changed
    FOR EACH STATEMENT
    EXECUTE FUNCTION blank_copies();
