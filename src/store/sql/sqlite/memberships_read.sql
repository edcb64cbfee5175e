-- The stays a batch can change: ?1 players it places, ?2 clans whose lists it has, both JSON arrays of tags. Of closed
-- stays only those since ?3, the earliest moment the batch speaks of.
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
