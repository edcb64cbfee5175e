-- The arbiter has spoken for this answer; what it did not learn about the league stays known.
insert into refresh_worker_refresh_state
    (kind, tag, fetched_at, changed_at, content_hash, fresh_until, outcome, snapshot_id, member_at, league)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
on conflict (kind, tag) do update set
    fetched_at = excluded.fetched_at,
    changed_at = excluded.changed_at,
    content_hash = excluded.content_hash,
    fresh_until = excluded.fresh_until,
    outcome = excluded.outcome,
    snapshot_id = excluded.snapshot_id,
    member_at = excluded.member_at,
    league = coalesce(excluded.league, league)
