DROP TABLE refresh_worker.untold;
