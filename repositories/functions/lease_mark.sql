-- What a capture's owner has achieved so far, as a text that changes with each stored frame, each slot that is settled with
-- a picture at hand, and each failure of its stream that is recorded. Slots that nobody watched (lease_lost), that had no
-- stream (camera_down: also in the moment before it opens) or that nobody wants (idle) settle by themselves, and do not count.
CREATE OR REPLACE FUNCTION lease_mark(request uuid) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT r.stored + slot_count(
        r.dropped_no_picture + r.dropped_decode_failed + r.dropped_queue_full + r.dropped_spool_full + r.dropped_spooled
        + r.dropped_surplus + r.dropped_cancelled + r.dropped_rejected) || ' ' || coalesce(r.error ->> 'at', '')
    FROM ingestion_requests r WHERE r.id = request
$$;
