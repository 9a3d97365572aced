-- Moves pending events into the log and numbers them: one process at a time (an advisory lock, LOCK_KEY of
-- repositories/event_log.py). The lock is taken in a statement before the one that moves, so that this one's snapshot has
-- all that the relay before it committed: numbers are given, and become readable, in one order.
CREATE OR REPLACE FUNCTION relay_events(at_most int)
RETURNS TABLE (moved int, busy boolean, waited float8, log uuid, head bigint)
LANGUAGE plpgsql AS $$
DECLARE
    oldest timestamptz;
BEGIN
    moved := 0; busy := false; waited := 0;
    IF EXISTS (SELECT 1 FROM outbox_pending) THEN
        IF pg_try_advisory_xact_lock(1702260340) THEN
            WITH batch AS (
                DELETE FROM outbox_pending p
                WHERE p.id = ANY (ARRAY(SELECT o.id FROM outbox_pending o ORDER BY o.id LIMIT at_most))
                RETURNING p.id, p.event, p.created_at
            ), numbers AS (
                UPDATE event_log l SET seq = l.seq + (SELECT count(*) FROM batch) WHERE l.id = 1 RETURNING l.seq AS last
            ), numbered AS (
                INSERT INTO events (seq, type, camera_id, event)
                SELECT n.last - count(*) OVER () + row_number() OVER (ORDER BY b.id),
                       b.event ->> 'type', b.event ->> 'camera_id', b.event
                FROM batch b CROSS JOIN numbers n
                RETURNING 1
            )
            SELECT count(*), min(b.created_at) INTO moved, oldest FROM batch b;
            waited := coalesce(extract(epoch FROM clock_timestamp() - oldest), 0);
        ELSE
            busy := true;
        END IF;
    END IF;
    SELECT l.log_id, l.seq INTO log, head FROM event_log l WHERE l.id = 1;
    RETURN NEXT;
END $$;
