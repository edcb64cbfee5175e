DROP FUNCTION refresh_worker.wins(timestamptz, timestamptz, timestamptz);
DROP TABLE refresh_worker.refresh_runs;
DROP TABLE refresh_worker.refresh_state;
