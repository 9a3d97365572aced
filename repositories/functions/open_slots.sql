-- Slots that were booked idle belong to an event after all: they are due.
CREATE OR REPLACE FUNCTION open_slots(request uuid, slots int4multirange) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM ingestion_requests WHERE id = request FOR NO KEY UPDATE;
    UPDATE ingestion_requests SET idle_slots = idle_slots - slots, updated_at = now()
    WHERE id = request AND status NOT IN ('completed', 'failed', 'cancelled') AND idle_slots && slots;
END $$;
