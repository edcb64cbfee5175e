-- Deletes places in the plan whose names are not those of objects: $1 kind, $2 tag.
DELETE FROM refresh_worker.plan AS p
USING unnest($1::text[], $2::text[]) AS a (kind, tag)
WHERE p.kind = a.kind AND p.tag = a.tag
