insert into player_snapshots
    (ts, player_tag, clan_tag, name, role, town_hall, trophies, donations, donations_received, war_attacks_used,
     last_seen, data)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
returning id
