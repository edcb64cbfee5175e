-- The places in the plan of the objects ?1, a JSON array of [kind, tag]. Casts: whatever a column holds, it can be read.
select p.kind, p.tag, cast(p.looked_at as text) as looked_at, cast(p.next_look as text) as next_look, cast(p.heard_at as text) as heard_at,
       cast(p.changes as real) as changes, cast(p.watched as real) as watched, cast(p.mails as real) as mails,
       cast(p.exposed as real) as exposed, cast(p.bucket as integer) as bucket, cast(p.hinted as integer) as hinted, s.fresh_until
from json_each(?1) as asked
join refresh_worker_plan as p on p.kind = asked.value ->> 0 and p.tag = asked.value ->> 1
left join refresh_worker_refresh_state as s on s.kind = p.kind and s.tag = p.tag
