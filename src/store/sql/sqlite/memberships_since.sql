-- Who came or went after ?1, with the moment of the last such event. (A union, so that each half has its index.)
select player_tag, max(at)
from (
    select player_tag, joined_at as at from clan_memberships where joined_at > ?1
    union all
    select player_tag, left_at from clan_memberships where left_at > ?1
)
group by player_tag
