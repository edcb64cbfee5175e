insert into player_snapshots
    (ts, player_tag, clan_tag, name, role, town_hall, trophies, donations, donations_received, war_attacks_used,
     last_seen, data)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
on conflict (player_tag, ts) do update set
    clan_tag = excluded.clan_tag,
    name = excluded.name,
    role = excluded.role,
    town_hall = excluded.town_hall,
    trophies = excluded.trophies,
    donations = excluded.donations,
    donations_received = excluded.donations_received,
    war_attacks_used = excluded.war_attacks_used,
    last_seen = excluded.last_seen,
    data = excluded.data
returning id
