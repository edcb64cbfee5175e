-- What runs reported about one object, the newest first. $1 its name and the colon that follows it, $2 how many.
SELECT r.run, r.started, e.text
FROM refresh_worker.refresh_runs AS r
-- PostgreSQL stores `\u0000` and half a surrogate pair in a text of a document, and fails when it reads a key of it.
CROSS JOIN LATERAL (
    SELECT CASE WHEN strpos(r.report::text, $r$\u$r$) = 0 THEN r.report
                ELSE regexp_replace(r.report::text, $r$\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})$r$, $r$\\u003f$r$, 'g')::json
           END AS report
) AS d
CROSS JOIN LATERAL json_array_elements_text(
    CASE WHEN json_typeof(d.report -> 'errors') = 'array' THEN d.report -> 'errors' ELSE '[]' END
) AS e (text)
WHERE starts_with(e.text, $1)
ORDER BY r.started DESC
LIMIT $2
