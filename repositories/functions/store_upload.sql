-- A finished upload with its frames, whole or not at all: the request, the frames, their keys, the ledger, the audit row; the
-- triggers of these tables write its events. Returns the request beside each of its stored frames, as committed, by sequence.
-- A request with this id that is there already is returned as it is: a second run of an upload changes nothing.
-- new_frames: a JSON array of rows as in record_slots, one a slot; refused: JSON as in the row; refused_slots: their numbers;
-- audited: the audit row but its target, null while access is off.
-- SQLSTATE TS001 with a JSON array of keys as DETAIL: the sweeper took them, and nothing is stored.
CREATE OR REPLACE FUNCTION store_upload(
    request uuid, camera text, about jsonb, refused jsonb, refused_slots int4multirange, new_frames jsonb, audited jsonb)
RETURNS TABLE (req ingestion_requests, frame frames)
LANGUAGE plpgsql AS $$
DECLARE
    f jsonb;
    made record;
    place jsonb;
    added int := 0;
    twins int := 0;
    newest timestamptz;
    last_slot int := 0;
    taken text[] := '{}';
BEGIN
    INSERT INTO ingestion_requests (id, camera_id, source_type, meta, rejected, status, started_at)
    VALUES (request, camera, 'upload', about, refused, 'in_progress', now())
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        -- Two uploads of the same bytes at one moment: the second waits and sees the first. Taken in one order.
        PERFORM pg_advisory_xact_lock(k) FROM (
            SELECT DISTINCT hashtextextended((x ->> 'camera_id') || ':' || (x ->> 'sha256'), 0) AS k
            FROM jsonb_array_elements(new_frames) AS x ORDER BY 1) AS keys;
        -- As in record_slots: where the registered camera stands; what the client says goes before.
        SELECT jsonb_strip_nulls(jsonb_build_object('location', c.location, 'camera_angle', c.camera_angle)) INTO place
        FROM camera_configurations c WHERE c.camera_id = camera;
        FOR f IN SELECT x FROM jsonb_array_elements(new_frames) AS x ORDER BY (x ->> 'sequence')::int LOOP
            made := insert_frame(request, f, place);
            IF NOT made.inserted THEN
                taken := taken || (f ->> 'storage_path');
                CONTINUE;
            END IF;
            added := added + 1;
            IF made.twin IS NOT NULL THEN twins := twins + 1; END IF;
            newest := greatest(newest, (f ->> 'capture_timestamp')::timestamptz);
            last_slot := greatest(last_slot, (f ->> 'sequence')::int + 1);
        END LOOP;
        IF taken <> '{}' THEN
            RAISE EXCEPTION USING ERRCODE = 'TS001', MESSAGE = 'keys are condemned', DETAIL = array_to_json(taken)::text;
        END IF;
        UPDATE ingestion_requests SET
            dropped_rejected = refused_slots, stored = added, duplicates = twins, last_frame_at = newest,
            expected = greatest(last_slot, coalesce(upper(refused_slots), 0)),
            status = 'completed', completed_at = now(), updated_at = now()
        WHERE id = request;
    END IF;
    IF audited IS NOT NULL THEN
        INSERT INTO audit (entry, subject, kind, address, action, target, status, trace_id, keep_until)
        VALUES (
            (audited ->> 'entry')::uuid, audited ->> 'subject', audited ->> 'kind', audited ->> 'address',
            audited ->> 'action', request::text, (audited ->> 'status')::int, audited ->> 'trace_id',
            now() + make_interval(secs => (audited ->> 'keep')::float8))
        ON CONFLICT (entry) DO NOTHING;
    END IF;
    RETURN QUERY SELECT r, fr FROM ingestion_requests r
        LEFT JOIN frames fr ON fr.request_id = r.id AND fr.state = 'stored'
        WHERE r.id = request ORDER BY fr.sequence;
END $$;
