-- In place and by columns only: `ts` and `data` stay, so that an old document does not look fresh.
update player_snapshots
set clan_tag = ?1,
    name = ?2,
    role = coalesce(?3, role),
    town_hall = coalesce(?4, town_hall),
    trophies = coalesce(?5, trophies),
    donations = coalesce(?6, donations),
    donations_received = coalesce(?7, donations_received),
    last_seen = ?8
where id = ?9
