-- The memberships that a batch can change: ?1 observed players, ?2 clans with a member list, both JSON arrays of tags. Closed
-- ones only since ?3, the earliest observation.
select m.id, m.player_tag, m.clan_tag, m.joined_at, m.left_at, s.fetched_at, s.member_at
from clan_memberships as m
left join refresh_worker_refresh_state as s on s.kind = 'player' and s.tag = m.player_tag
where m.player_tag in (select value from json_each(?1))
  and (m.left_at is null or m.left_at >= ?3 or m.joined_at >= ?3)
union
select m.id, m.player_tag, m.clan_tag, m.joined_at, m.left_at, s.fetched_at, s.member_at
from clan_memberships as m
left join refresh_worker_refresh_state as s on s.kind = 'player' and s.tag = m.player_tag
where m.clan_tag in (select value from json_each(?2)) and m.left_at is null
