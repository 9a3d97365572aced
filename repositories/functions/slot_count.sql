-- How many slots a multirange holds.
CREATE OR REPLACE FUNCTION slot_count(slots int4multirange) RETURNS int
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$ SELECT coalesce(sum(upper(r) - lower(r)), 0)::int FROM unnest(slots) AS r $$;
