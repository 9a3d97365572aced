-- Books every slot below `due` that has neither frame nor reason as dropped for `reason`. Locks the request's row.
CREATE OR REPLACE FUNCTION settle_slots(request uuid, reason text, due int) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    req ingestion_requests%ROWTYPE;
    rest int4multirange;
BEGIN
    SELECT * INTO req FROM ingestion_requests WHERE id = request FOR NO KEY UPDATE;
    due := greatest(due, req.expected);
    SELECT int4multirange(int4range(0, due)) - (
        req.dropped_camera_down + req.dropped_no_picture + req.dropped_decode_failed + req.dropped_queue_full
        + req.dropped_spool_full + req.dropped_spooled + req.dropped_surplus + req.dropped_lease_lost
        + req.dropped_cancelled + req.dropped_rejected) - req.idle_slots
           - coalesce(range_agg(int4range(fr.sequence, fr.sequence + 1)), '{}') INTO rest
    FROM frames fr WHERE fr.request_id = request;
    EXECUTE format(
        'UPDATE ingestion_requests SET %1$I = %1$I + $1, expected = $2, updated_at = now() WHERE id = $3',
        'dropped_' || reason) USING rest, due, request;
    RETURN slot_count(rest);
END $$;
