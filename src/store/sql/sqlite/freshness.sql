-- ?1: a JSON array of [kind, tag]. Objects that were never fetched have no `fetched_at` and are left out.
select s.kind, s.tag, s.fetched_at, s.fresh_until, s.league
from json_each(?1) as asked
join refresh_worker_refresh_state as s
    on s.kind = asked.value ->> 0 and s.tag = asked.value ->> 1
where s.fetched_at is not null
