delete from refresh_worker_refresh_runs where ended < ?1
