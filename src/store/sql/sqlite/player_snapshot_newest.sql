select id, ts, clan_tag, name, role, town_hall, trophies, donations, donations_received, war_attacks_used, last_seen
from player_snapshots
where player_tag = ?1
order by ts desc
limit 1
