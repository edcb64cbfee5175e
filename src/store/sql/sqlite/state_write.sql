insert or replace into refresh_worker_refresh_state
    (kind, tag, fetched_at, changed_at, content_hash, fresh_until, last_outcome, snapshot_id, member_at, attacks_at,
     league)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
