-- With the copy time of the newest word on each player.
select m.id, m.player_tag, s.member_at
from clan_memberships as m
left join refresh_worker_refresh_state as s on s.kind = 'player' and s.tag = m.player_tag
where m.clan_tag = ?1 and m.left_at is null
