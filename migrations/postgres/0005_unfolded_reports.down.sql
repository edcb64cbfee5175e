DROP INDEX refresh_worker.ix_refresh_runs_failed;
DROP INDEX refresh_worker.ix_refresh_runs_good;
DROP TRIGGER unfold_report ON refresh_worker.refresh_runs;
DROP FUNCTION refresh_worker.unfold_report();
CREATE OR REPLACE VIEW refresh_worker.work AS
SELECT r.run, r.started, (r.started AT TIME ZONE 'UTC')::date AS day, k.key AS kind, c.key AS priority,
       coalesce((c.value ->> 'calls')::bigint, 0) AS calls,
       coalesce((c.value ->> 'stored')::bigint, 0) AS changed,
       coalesce((c.value ->> 'unchanged')::bigint, 0) AS unchanged,
       coalesce((c.value ->> 'fresh')::bigint, 0) AS fresh,
       coalesce((c.value ->> 'gone')::bigint, 0) + coalesce((c.value ->> 'private_war_log')::bigint, 0) AS gone,
       coalesce((c.value ->> 'delayed')::bigint, 0) + coalesce((c.value ->> 'dead_letter')::bigint, 0) AS error,
       coalesce((c.value ->> 'released')::bigint, 0) + coalesce((c.value ->> 'lease_lost')::bigint, 0) AS released
FROM refresh_worker.refresh_runs AS r
CROSS JOIN LATERAL json_each(r.report -> 'work_by_kind_and_priority') AS k
CROSS JOIN LATERAL json_each(k.value) AS c;
DROP TABLE refresh_worker.run_errors;
DROP TABLE refresh_worker.run_work;
