DROP TABLE refresh_worker.refresh_runs;
DROP TABLE refresh_worker.refresh_state;
