-- Books stored frames, dropped slots and slots come due in a request's row: the ledger, in one round trip.
-- The request's row is locked (FOR NO KEY UPDATE) by a statement of its own before anything changes: under READ COMMITTED
-- the statements after it then see everything that the former holder of the lock committed.
-- new_frames: a JSON array of rows; drops: {reason or "idle": int4multirange text}; due: how many slots have come due.
-- Outcomes: stored; exists (the slot has a frame: its path is returned); surplus (max_frames are stored, or the frame of a
-- slot that was spooled or lease_lost came beyond them); late (the request is final and never had this slot); condemned (the
-- sweeper took the key: PUT again).
CREATE OR REPLACE FUNCTION record_slots(request uuid, new_frames jsonb, drops jsonb, due int)
RETURNS TABLE (sequence int, outcome text, storage_path text)
LANGUAGE plpgsql AS $$
DECLARE
    req ingestion_requests%ROWTYPE;
    f jsonb;
    seq int;
    held text;
    made record;
    place jsonb;
    is_final boolean;
    cap int;
    added int := 0;
    twins int := 0;
    newest timestamptz;
    moved int4multirange := '{}';
    settled int4multirange;
    surplus int4multirange := '{}';
    demoted int4multirange;
    fresh jsonb := '{}';
    item record;
    ranges int4multirange;
BEGIN
    SELECT * INTO req FROM ingestion_requests WHERE id = request FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE foreign_key_violation USING MESSAGE = 'no such request';
    END IF;
    is_final := req.status IN ('completed', 'failed', 'cancelled');
    cap := (req.params ->> 'max_frames')::int;
    IF req.source_type = 'upload' THEN
        -- Two uploads of the same bytes at one moment: the second waits and sees the first. Taken in one order.
        PERFORM pg_advisory_xact_lock(k) FROM (
            SELECT DISTINCT hashtextextended((x ->> 'camera_id') || ':' || (x ->> 'sha256'), 0) AS k
            FROM jsonb_array_elements(new_frames) AS x ORDER BY 1) AS keys;
    END IF;
    -- Where the registered camera stands and what it looks at goes with each of its frames; what the client says goes before.
    SELECT jsonb_strip_nulls(jsonb_build_object('location', c.location, 'camera_angle', c.camera_angle)) INTO place
    FROM camera_configurations c WHERE c.camera_id = req.camera_id;
    FOR f IN SELECT x FROM jsonb_array_elements(new_frames) AS x ORDER BY (x ->> 'sequence')::int LOOP
        seq := (f ->> 'sequence')::int;
        SELECT fr.storage_path INTO held FROM frames fr WHERE fr.request_id = request AND fr.sequence = seq;
        IF FOUND THEN
            sequence := seq; outcome := 'exists'; storage_path := held;
            RETURN NEXT;
            CONTINUE;
        END IF;
        IF is_final AND NOT (int4multirange(int4range(seq, seq + 1)) <@ (
            req.dropped_camera_down + req.dropped_no_picture + req.dropped_decode_failed + req.dropped_queue_full
            + req.dropped_spool_full + req.dropped_spooled + req.dropped_surplus + req.dropped_lease_lost
            + req.dropped_cancelled + req.dropped_rejected)) THEN
            sequence := seq; outcome := 'late'; storage_path := NULL;
            RETURN NEXT;
            CONTINUE;
        END IF;
        IF cap IS NOT NULL AND req.stored + added >= cap THEN
            surplus := surplus + int4multirange(int4range(seq, seq + 1));
            sequence := seq; outcome := 'surplus'; storage_path := NULL;
            RETURN NEXT;
            CONTINUE;
        END IF;
        made := insert_frame(request, f, place);
        IF NOT made.inserted THEN
            sequence := seq; outcome := 'condemned'; storage_path := NULL;
            RETURN NEXT;
            CONTINUE;
        END IF;
        added := added + 1;
        IF made.twin IS NOT NULL THEN twins := twins + 1; END IF;
        newest := greatest(newest, (f ->> 'capture_timestamp')::timestamptz);
        moved := moved + int4multirange(int4range(seq, seq + 1));
        sequence := seq; outcome := 'stored'; storage_path := f ->> 'storage_path';
        RETURN NEXT;
    END LOOP;

    -- What was to come late, and came beyond max_frames, is surplus: before the end and after it.
    demoted := surplus * (req.dropped_spooled + req.dropped_lease_lost);

    -- Drops are booked once: not over a frame, not over an earlier reason, and not after the end.
    IF NOT is_final THEN
        settled := (
            req.dropped_camera_down + req.dropped_no_picture + req.dropped_decode_failed + req.dropped_queue_full
            + req.dropped_spool_full + req.dropped_spooled + req.dropped_surplus + req.dropped_lease_lost
            + req.dropped_cancelled + req.dropped_rejected) + req.idle_slots + moved;
        SELECT settled + coalesce(range_agg(int4range(fr.sequence, fr.sequence + 1)), '{}') INTO settled
        FROM frames fr
        WHERE fr.request_id = request AND drops <> '{}'::jsonb;
        FOR item IN SELECT * FROM jsonb_each_text(drops) LOOP
            ranges := item.value::int4multirange - settled;
            fresh := fresh || jsonb_build_object(item.key, ranges::text);
            settled := settled + ranges;
        END LOOP;
        ranges := surplus - settled;
        settled := settled + ranges;
        fresh := fresh || jsonb_build_object(
            'surplus', (ranges + coalesce((fresh ->> 'surplus')::int4multirange, '{}'))::text);
        due := greatest(due, req.expected, coalesce(upper(moved), 0), coalesce(upper(settled), 0));
    ELSE
        due := req.expected;
    END IF;

    UPDATE ingestion_requests SET
        dropped_camera_down = (dropped_camera_down + coalesce((fresh ->> 'camera_down')::int4multirange, '{}'))
            - moved - demoted,
        dropped_no_picture = (dropped_no_picture + coalesce((fresh ->> 'no_picture')::int4multirange, '{}'))
            - moved - demoted,
        dropped_decode_failed = (dropped_decode_failed + coalesce((fresh ->> 'decode_failed')::int4multirange, '{}'))
            - moved - demoted,
        dropped_queue_full = (dropped_queue_full + coalesce((fresh ->> 'queue_full')::int4multirange, '{}'))
            - moved - demoted,
        dropped_spool_full = (dropped_spool_full + coalesce((fresh ->> 'spool_full')::int4multirange, '{}'))
            - moved - demoted,
        dropped_spooled = (dropped_spooled + coalesce((fresh ->> 'spooled')::int4multirange, '{}'))
            - moved - demoted,
        dropped_surplus = (dropped_surplus + coalesce((fresh ->> 'surplus')::int4multirange, '{}'))
            - moved + demoted,
        dropped_lease_lost = (dropped_lease_lost + coalesce((fresh ->> 'lease_lost')::int4multirange, '{}'))
            - moved - demoted,
        dropped_cancelled = (dropped_cancelled + coalesce((fresh ->> 'cancelled')::int4multirange, '{}'))
            - moved - demoted,
        dropped_rejected = (dropped_rejected + coalesce((fresh ->> 'rejected')::int4multirange, '{}'))
            - moved - demoted,
        idle_slots = (idle_slots + coalesce((fresh ->> 'idle')::int4multirange, '{}')) - moved,
        expected = due,
        stored = stored + added,
        duplicates = duplicates + twins,
        last_frame_at = greatest(last_frame_at, newest),
        updated_at = now()
    WHERE id = request;
END $$;
