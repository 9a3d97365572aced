-- Times as the HTTP interface writes them: UTC, Z, six digits.
CREATE OR REPLACE FUNCTION wire_time(at timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$ SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') $$;
