DROP TABLE refresh_worker.looks, refresh_worker.plan_walk, refresh_worker.plan_level, refresh_worker.plan;
