select id, clan_tag
from clan_memberships
where player_tag = ?1 and left_at is null
order by joined_at desc, id desc
