-- Which database this is: its event log's id, and what a copy of it has otherwise: the server's system identifier, its timeline
-- (another one after a promotion or a recovery to a moment), the database's oid (a copy in the same server). The last three are
-- null where the role may not ask for them.
CREATE OR REPLACE FUNCTION database_identity(OUT log uuid, OUT system text, OUT timeline bigint, OUT database bigint)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT log_id INTO log FROM event_log WHERE id = 1;
    BEGIN
        -- Of pg_control_checkpoint() the timeline would be the last checkpoint's: late after a promotion.
        SELECT c.system_identifier::text, ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint, d.oid::bigint
          INTO system, timeline, database
          FROM pg_control_system() AS c, pg_database AS d WHERE d.datname = current_database();
    EXCEPTION WHEN insufficient_privilege OR undefined_function OR object_not_in_prerequisite_state THEN
        system := NULL;
        timeline := NULL;
        database := NULL;
    END;
END $$;
