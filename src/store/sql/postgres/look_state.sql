-- $1 kind and $2 tag of the object.
SELECT fetched_at, changed_at, fresh_until, last_outcome, member_at
FROM refresh_worker.refresh_state
WHERE kind = $1 AND tag = $2
