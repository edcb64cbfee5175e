-- $1 kind and $2 tag of the objects. Objects known only from member lists were never fetched.
SELECT s.kind, s.tag, s.fetched_at, s.fresh_until, s.league::text AS league
FROM unnest($1::text[], $2::text[]) AS a (kind, tag)
JOIN refresh_worker.refresh_state AS s ON s.kind = a.kind AND s.tag = a.tag
WHERE s.fetched_at IS NOT NULL
