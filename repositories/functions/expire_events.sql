-- Removes events older than `retention` seconds, always a whole beginning of the log: what is left has no holes, whatever
-- the clock did. Under the lock of relay_events. Returns how many events were removed.
CREATE OR REPLACE FUNCTION expire_events(retention float8, at_most int) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    first bigint;
    last bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1702260340) THEN
        RETURN 0;
    END IF;
    SELECT l.oldest INTO first FROM event_log l WHERE l.id = 1;
    SELECT max(s.seq) INTO last FROM (
        SELECT f.seq,
               bool_and(f.created_at < clock_timestamp() - make_interval(secs => retention)) OVER (ORDER BY f.seq) AS old
        FROM (SELECT e.seq, e.created_at FROM events e WHERE e.seq >= first ORDER BY e.seq LIMIT at_most) AS f
    ) AS s WHERE s.old;
    IF last IS NULL THEN
        RETURN 0;
    END IF;
    DELETE FROM events e WHERE e.seq >= first AND e.seq <= last;
    UPDATE event_log l SET oldest = last + 1 WHERE l.id = 1;
    RETURN last - first + 1;
END $$;
