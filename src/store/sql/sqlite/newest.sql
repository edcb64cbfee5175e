-- The newest snapshot row of each object, without its document. ?1 players, ?2 clans, ?3 wars: JSON arrays of
-- [tag, the time of a new row, the same plus a millisecond].
-- `taken`: the latest time of another row in that millisecond.
select 'player' as kind, n.player_tag as tag, n.id, n.ts,
       case when n.ts >= asked.value ->> 1 then (
           select max(o.ts) from player_snapshots as o
           where o.player_tag = n.player_tag and o.id <> n.id
             and o.ts >= asked.value ->> 1 and o.ts < asked.value ->> 2
       ) end as taken,
       n.clan_tag, n.name, n.role, n.town_hall, n.trophies, n.donations, n.donations_received, n.war_attacks_used,
       n.last_seen,
       -- Readers show the newest row with attacks, at most a week older, when the newest row has none.
       case when n.war_attacks_used is null then (
           select o.war_attacks_used from player_snapshots as o
           where o.player_tag = n.player_tag and o.war_attacks_used is not null
             and o.ts >= strftime('%Y-%m-%d %H:%M:%f', n.ts, '-7 days')
           order by o.ts desc
           limit 1
       ) end as earlier_attacks
from json_each(?1) as asked
join player_snapshots as n on n.id = (
    select s.id from player_snapshots as s
    where s.player_tag = asked.value ->> 0 and s.ts is not null
    order by s.ts desc
    limit 1
)
union all
select 'clan', n.clan_tag, n.id, n.ts,
       case when n.ts >= asked.value ->> 1 then (
           select max(o.ts) from clan_snapshots as o
           where o.clan_tag = n.clan_tag and o.id <> n.id and o.ts >= asked.value ->> 1 and o.ts < asked.value ->> 2
       ) end,
       null, null, null, null, null, null, null, null, null, null
from json_each(?2) as asked
join clan_snapshots as n on n.id = (
    select s.id from clan_snapshots as s
    where s.clan_tag = asked.value ->> 0 and s.ts is not null
    order by s.ts desc
    limit 1
)
union all
select 'war', n.clan_tag, n.id, n.ts,
       case when n.ts >= asked.value ->> 1 then (
           select max(o.ts) from war_snapshots as o
           where o.clan_tag = n.clan_tag and o.id <> n.id and o.ts >= asked.value ->> 1 and o.ts < asked.value ->> 2
       ) end,
       null, null, null, null, null, null, null, null, null, null
from json_each(?3) as asked
join war_snapshots as n on n.id = (
    select s.id from war_snapshots as s
    where s.clan_tag = asked.value ->> 0 and s.ts is not null
    order by s.ts desc
    limit 1
)
