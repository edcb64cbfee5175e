-- The next ?3 objects of the walk, after ?1 (kind), ?2 (tag): which of them have a place in the plan, and the clan of the others.
select s.kind, s.tag, s.fetched_at, p.kind is not null as is_planned, c.clan_tag
from refresh_worker_refresh_state as s
left join refresh_worker_plan as p on p.kind = s.kind and p.tag = s.tag
left join players as c on s.kind = 'player' and c.tag = s.tag
where (s.kind, s.tag) > (?1, ?2)
order by s.kind, s.tag
limit ?3
