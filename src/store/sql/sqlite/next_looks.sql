-- The next planned looks until ?1, the earliest first: at most ?7, after the object ?3 (kind), ?4 (tag) whose next look is ?2.
-- Only of the buckets from ?5 to ?6.
select p.kind, p.tag, cast(p.looked_at as text) as looked_at, cast(p.next_look as text) as next_look, cast(p.heard_at as text) as heard_at,
       cast(p.changes as real) as changes, cast(p.watched as real) as watched, cast(p.mails as real) as mails,
       cast(p.exposed as real) as exposed, cast(p.bucket as integer) as bucket, cast(p.hinted as integer) as hinted, s.fresh_until
from refresh_worker_plan as p
left join refresh_worker_refresh_state as s on s.kind = p.kind and s.tag = p.tag
where p.next_look <= ?1 and p.next_look >= ?2 and (p.next_look, p.kind, p.tag) > (?2, ?3, ?4) 
  and max(min(cast(p.bucket as integer), 9999), 0) between ?5 and ?6
order by p.next_look, p.kind, p.tag
limit ?7
