-- `or replace`: a row that a wrong clock put ahead may come back to a time that another row has.
update or replace player_snapshots
set ts = ?1, player_tag = ?2, clan_tag = ?3, name = ?4, role = ?5, town_hall = ?6, trophies = ?7, donations = ?8,
    donations_received = ?9, war_attacks_used = ?10, last_seen = ?11, data = ?12
where id = ?13
returning id
