-- How many slots a multirange holds. Nearly all are empty, and each change of a request's row asks eleven times (in_flight):
-- PL/pgSQL answers these in a microsecond; a function in SQL with an aggregate is never inlined, and starts an executor.
CREATE OR REPLACE FUNCTION slot_count(slots int4multirange) RETURNS int
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
BEGIN
    IF isempty(slots) THEN
        RETURN 0;
    END IF;
    RETURN (SELECT coalesce(sum(upper(r) - lower(r)), 0)::int FROM unnest(slots) AS r);
END $$;
