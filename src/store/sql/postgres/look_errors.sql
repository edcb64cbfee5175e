-- What runs reported about one object, the newest first. $1 its name and the colon that follows it, $2 how many. A report with
-- \u0000 in a text cannot be read by key, and is skipped.
SELECT r.run, r.started, e.text
FROM refresh_worker.refresh_runs AS r
CROSS JOIN LATERAL json_array_elements_text(
    CASE WHEN strpos(r.report::text, '\u0000') > 0 AND r.report::text ~ '(^|[^\\])(\\\\)*\\u0000' THEN '[]'
         WHEN json_typeof(r.report -> 'errors') = 'array' THEN r.report -> 'errors' ELSE '[]' END
) AS e (text)
WHERE starts_with(e.text, $1)
ORDER BY r.started DESC
LIMIT $2
