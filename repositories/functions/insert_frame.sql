-- The one INSERT of a frame's row, with its object's key. f: the row as JSON, as repositories/ledger.py, frame_json, makes it.
-- place: where the registered camera stands; what the client says goes before.
-- inserted is false when the sweeper took the key, and then nothing is; twin: the camera's first frame with the same bytes.
-- Named column by column: jsonb_populate_record, which would need no list, takes a tenth longer.
CREATE OR REPLACE FUNCTION insert_frame(request uuid, f jsonb, place jsonb, OUT inserted boolean, OUT twin uuid)
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO object_keys (key, state) VALUES (f ->> 'storage_path', 'live') ON CONFLICT DO NOTHING;
    inserted := FOUND;
    IF NOT inserted THEN
        RETURN;
    END IF;
    INSERT INTO frames (
        id, request_id, camera_id, source_type, sequence, filename, storage_path, capture_timestamp, timestamp_source,
        timestamp_uncertainty_ms, camera_timestamp, width, height, size_bytes, format, content_type, sha256,
        integrity, duplicate_of, exif, meta, quality, stored_at)
    VALUES (
        (f ->> 'id')::uuid, request, f ->> 'camera_id', f ->> 'source_type', (f ->> 'sequence')::int, f ->> 'filename',
        f ->> 'storage_path', (f ->> 'capture_timestamp')::timestamptz, f ->> 'timestamp_source',
        (f ->> 'timestamp_uncertainty_ms')::float8, (f ->> 'camera_timestamp')::timestamptz, (f ->> 'width')::int,
        (f ->> 'height')::int, (f ->> 'size_bytes')::bigint, f ->> 'format', f ->> 'content_type', f ->> 'sha256',
        -- Records of before the column tell what is not certain in their meta.
        coalesce(f ->> 'integrity', f -> 'meta' ->> 'integrity', 'verified'),
        (SELECT fr.id FROM frames fr WHERE fr.camera_id = f ->> 'camera_id' AND fr.sha256 = f ->> 'sha256'
         ORDER BY fr.stored_at, fr.id LIMIT 1),
        nullif(f -> 'exif', 'null'), coalesce(place, '{}') || (f -> 'meta'), nullif(f -> 'quality', 'null'),
        clock_timestamp())
    RETURNING duplicate_of INTO twin;
END $$;
