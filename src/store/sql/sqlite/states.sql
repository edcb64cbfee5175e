-- ?1: a JSON array of [kind, tag].
select s.kind, s.tag, s.fetched_at, s.changed_at, s.content_hash, s.fresh_until, s.last_outcome, s.snapshot_id,
       s.member_at, s.attacks_at, s.league
from json_each(?1) as asked
join refresh_worker_refresh_state as s
    on s.kind = asked.value ->> 0 and s.tag = asked.value ->> 1
