DROP TABLE refresh_worker.outbox;
