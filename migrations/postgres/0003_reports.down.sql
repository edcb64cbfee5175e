-- The views of `views install` would keep the schema from being dropped.
DROP MATERIALIZED VIEW IF EXISTS refresh_worker.clan_leaderboard;
DROP MATERIALIZED VIEW IF EXISTS refresh_worker.refresh_progress;
DROP VIEW refresh_worker.freshness;
DROP VIEW refresh_worker.work_by_day;
DROP VIEW refresh_worker.work;
DROP TABLE refresh_worker.retention_progress;
