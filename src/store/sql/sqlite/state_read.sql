select fetched_at, changed_at, content_hash, snapshot_id, member_at, attacks_at
from refresh_worker_refresh_state
where kind = ?1 and tag = ?2
