-- A report with \u0000 in a text cannot be read by key at all, and one such row broke every reader of these views. It is
-- skipped.
CREATE OR REPLACE VIEW refresh_worker.work AS
SELECT r.run, r.started, (r.started AT TIME ZONE 'UTC')::date AS day, k.key AS kind, c.key AS class,
       coalesce((c.value ->> 'calls')::bigint, 0) AS calls,
       coalesce((c.value ->> 'stored')::bigint, 0) AS changed,
       coalesce((c.value ->> 'unchanged')::bigint, 0) AS unchanged,
       coalesce((c.value ->> 'satisfied')::bigint, 0) AS satisfied,
       coalesce((c.value ->> 'gone')::bigint, 0) + coalesce((c.value ->> 'private_war_log')::bigint, 0) AS gone,
       coalesce((c.value ->> 'delayed')::bigint, 0) + coalesce((c.value ->> 'dead_letter')::bigint, 0) AS error,
       coalesce((c.value ->> 'released')::bigint, 0) + coalesce((c.value ->> 'stale')::bigint, 0) AS given_back
FROM refresh_worker.refresh_runs AS r
CROSS JOIN LATERAL json_each(
    CASE WHEN strpos(r.report::text, '\u0000') = 0 OR r.report::text !~ '(^|[^\\])(\\\\)*\\u0000'
         THEN r.report -> 'work_by_kind_and_class' END
) AS k
CROSS JOIN LATERAL json_each(k.value) AS c;
