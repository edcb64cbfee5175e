-- Views for operators: the freshness of the data and the results of the calls. Also the progress of retention.
CREATE TABLE refresh_worker.retention_progress (
    snapshot_table text NOT NULL,
    thinned_until  timestamp without time zone NOT NULL,
    noted_at       timestamptz NOT NULL,
    CONSTRAINT retention_progress_pkey PRIMARY KEY (snapshot_table)
);
COMMENT ON TABLE refresh_worker.retention_progress IS 'Up to which day each table of snapshots is thinned to one a day.';
COMMENT ON COLUMN refresh_worker.retention_progress.snapshot_table IS 'clan_snapshots, player_snapshots or war_snapshots';
COMMENT ON COLUMN refresh_worker.retention_progress.thinned_until IS 'all days before this one (UTC) are thinned';
COMMENT ON COLUMN refresh_worker.retention_progress.noted_at IS 'when that was noted';

-- An invalid report, written by somebody else, counts as empty and does not prevent reading the others.
-- PostgreSQL stores `\u0000` and half a surrogate pair in a text of a document, and fails when it reads a key of it.
CREATE VIEW refresh_worker.work AS
SELECT r.run, r.started, (r.started AT TIME ZONE 'UTC')::date AS day, k.key AS kind, c.key AS priority,
       n.calls, n.changed, n.unchanged, n.fresh, n.gone, n.error, n.released
FROM refresh_worker.refresh_runs AS r
CROSS JOIN LATERAL (
    SELECT CASE WHEN strpos(r.report::text, $r$\u$r$) = 0 THEN r.report
                ELSE regexp_replace(r.report::text, $r$\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})$r$, $r$\\u003f$r$, 'g')::json
           END AS report
) AS d
CROSS JOIN LATERAL (
    SELECT CASE WHEN json_typeof(d.report -> 'work_by_kind_and_priority') = 'object'
                THEN d.report -> 'work_by_kind_and_priority' ELSE '{}' END AS by_kind
) AS w
CROSS JOIN LATERAL json_each(w.by_kind) AS k
CROSS JOIN LATERAL json_each(CASE WHEN json_typeof(k.value) = 'object' THEN k.value ELSE '{}' END) AS c
CROSS JOIN LATERAL (
    SELECT coalesce(sum(t.value::bigint) FILTER (WHERE t.key = 'calls'), 0)::bigint AS calls,
           coalesce(sum(t.value::bigint) FILTER (WHERE t.key = 'stored'), 0)::bigint AS changed,
           coalesce(sum(t.value::bigint) FILTER (WHERE t.key = 'unchanged'), 0)::bigint AS unchanged,
           coalesce(sum(t.value::bigint) FILTER (WHERE t.key = 'fresh'), 0)::bigint AS fresh,
           coalesce(sum(t.value::bigint) FILTER (WHERE t.key IN ('gone', 'private_war_log')), 0)::bigint AS gone,
           coalesce(sum(t.value::bigint) FILTER (WHERE t.key IN ('delayed', 'dead_letter')), 0)::bigint AS error,
           coalesce(sum(t.value::bigint) FILTER (WHERE t.key IN ('released', 'lease_lost')), 0)::bigint AS released
    FROM json_each_text(CASE WHEN json_typeof(c.value) = 'object' THEN c.value ELSE '{}' END) AS t
    WHERE t.value ~ '^[0-9]{1,12}$'
) AS n;
COMMENT ON VIEW refresh_worker.work IS
    'Results of the calls of each run, by kind and priority, as long as refresh_runs are kept.';

CREATE VIEW refresh_worker.work_by_day AS
SELECT day, kind, priority, sum(calls)::bigint AS calls, sum(changed)::bigint AS changed,
       sum(unchanged)::bigint AS unchanged, sum(fresh)::bigint AS fresh, sum(gone)::bigint AS gone,
       sum(error)::bigint AS error, sum(released)::bigint AS released
FROM refresh_worker.work
GROUP BY day, kind, priority;
COMMENT ON VIEW refresh_worker.work_by_day IS 'Results of the calls, by day (UTC), kind and priority.';

CREATE VIEW refresh_worker.freshness AS
SELECT s.kind,
       count(*) AS objects,
       count(*) FILTER (WHERE s.fetched_at > now() - interval '5 minutes') AS fresh_5_min,
       count(*) FILTER (WHERE s.fetched_at > now() - interval '30 minutes') AS fresh_30_min,
       count(*) FILTER (WHERE s.fetched_at > now() - interval '2 hours') AS fresh_2_h,
       count(*) FILTER (WHERE s.fetched_at > now() - interval '8 hours') AS fresh_8_h,
       count(*) FILTER (WHERE s.fetched_at <= now() - interval '8 hours') AS older,
       count(*) FILTER (WHERE s.fetched_at IS NULL) AS never_fetched,
       extract(epoch FROM now() - percentile_disc(0.5) WITHIN GROUP (ORDER BY s.fetched_at))::float8
           AS median_age_seconds,
       extract(epoch FROM now() - min(s.fetched_at))::float8 AS greatest_age_seconds,
       count(*) FILTER (WHERE s.changed_at > now() - interval '24 hours') AS changed_24_h
-- A future or impossible time means unknown.
FROM (
    SELECT kind,
           CASE WHEN fetched_at BETWEEN '0001-01-01' AND now() + interval '1 minute' THEN fetched_at END AS fetched_at,
           CASE WHEN changed_at BETWEEN '0001-01-01' AND now() + interval '1 minute' THEN changed_at END AS changed_at
    FROM refresh_worker.refresh_state
) AS s
GROUP BY s.kind;
COMMENT ON VIEW refresh_worker.freshness IS
    'Freshness of the data, by kind: the number of objects younger than each priority promises.';
