-- The spool gave up these slots' frames: they are spool_full. Locks the request's row.
CREATE OR REPLACE FUNCTION abandon_slots(request uuid, slots int4multirange) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    req ingestion_requests%ROWTYPE;
    lost int4multirange;
BEGIN
    SELECT * INTO req FROM ingestion_requests WHERE id = request FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF req.status IN ('completed', 'failed', 'cancelled') THEN
        lost := slots * req.dropped_spooled;
    ELSE
        SELECT slots - ((
            req.dropped_camera_down + req.dropped_no_picture + req.dropped_decode_failed + req.dropped_queue_full
            + req.dropped_spool_full + req.dropped_spooled + req.dropped_surplus + req.dropped_lease_lost
            + req.dropped_cancelled + req.dropped_rejected) - req.dropped_spooled) - req.idle_slots
               - coalesce(range_agg(int4range(fr.sequence, fr.sequence + 1)), '{}') INTO lost
        FROM frames fr WHERE fr.request_id = request;
    END IF;
    UPDATE ingestion_requests SET
        dropped_spooled = dropped_spooled - lost,
        dropped_spool_full = dropped_spool_full + lost,
        expected = greatest(expected, coalesce(upper(lost), 0)),
        updated_at = now()
    WHERE id = request AND NOT isempty(lost);
END $$;
