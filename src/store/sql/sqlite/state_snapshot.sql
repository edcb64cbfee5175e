update refresh_worker_refresh_state set snapshot_id = ?3 where kind = ?1 and tag = ?2
