-- What operators ask about the work done: how fresh the data is, and what the calls bought. And how far retention is.
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

CREATE VIEW refresh_worker.work AS
SELECT r.run, r.started, (r.started AT TIME ZONE 'UTC')::date AS day, k.key AS kind, c.key AS class,
       coalesce((c.value ->> 'calls')::bigint, 0) AS calls,
       coalesce((c.value ->> 'stored')::bigint, 0) AS changed,
       coalesce((c.value ->> 'unchanged')::bigint, 0) AS unchanged,
       coalesce((c.value ->> 'satisfied')::bigint, 0) AS satisfied,
       coalesce((c.value ->> 'gone')::bigint, 0) + coalesce((c.value ->> 'private_war_log')::bigint, 0) AS gone,
       coalesce((c.value ->> 'delayed')::bigint, 0) + coalesce((c.value ->> 'dead_letter')::bigint, 0) AS error,
       coalesce((c.value ->> 'released')::bigint, 0) + coalesce((c.value ->> 'stale')::bigint, 0) AS given_back
FROM refresh_worker.refresh_runs AS r
CROSS JOIN LATERAL json_each(r.report -> 'work_by_kind_and_class') AS k
CROSS JOIN LATERAL json_each(k.value) AS c;
COMMENT ON VIEW refresh_worker.work IS
    'What the calls of each run bought, by kind and class: as far back as refresh_runs are kept.';

CREATE VIEW refresh_worker.work_by_day AS
SELECT day, kind, class, sum(calls)::bigint AS calls, sum(changed)::bigint AS changed,
       sum(unchanged)::bigint AS unchanged, sum(satisfied)::bigint AS satisfied, sum(gone)::bigint AS gone,
       sum(error)::bigint AS error, sum(given_back)::bigint AS given_back
FROM refresh_worker.work
GROUP BY day, kind, class;
COMMENT ON VIEW refresh_worker.work_by_day IS 'What the calls bought, by day (UTC), kind and class.';

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
FROM refresh_worker.refresh_state AS s
GROUP BY s.kind;
COMMENT ON VIEW refresh_worker.freshness IS
    'How fresh the data is now, by kind: how many objects are younger than what each class promises.';
