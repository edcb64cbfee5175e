-- What runs reported about one object, the newest first. $1 its name and the colon that follows it, $2 how many.
SELECT r.run, r.started, e.text
FROM refresh_worker.refresh_runs AS r
CROSS JOIN LATERAL json_array_elements_text(
    CASE WHEN json_typeof(r.report -> 'errors') = 'array' THEN r.report -> 'errors' ELSE '[]' END
) AS e (text)
WHERE starts_with(e.text, $1)
ORDER BY r.started DESC
LIMIT $2
