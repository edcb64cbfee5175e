-- The documents that a batch replaces, by the ids of their rows: JSON arrays, ?1 clans, ?2 players, ?3 wars.
select 'clan' as kind, s.clan_tag as tag, s.data as document
from json_each(?1) as asked join clan_snapshots as s on s.id = asked.value
union all
select 'player', s.player_tag, s.data from json_each(?2) as asked join player_snapshots as s on s.id = asked.value
union all
select 'war', s.clan_tag, s.data from json_each(?3) as asked join war_snapshots as s on s.id = asked.value
