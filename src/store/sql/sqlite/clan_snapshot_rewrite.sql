-- `or replace`: a row that a wrong clock put ahead may come back to a time that another row has.
update or replace clan_snapshots
set ts = ?1, clan_tag = ?2, name = ?3, member_count = ?4, level = ?5, war_wins = ?6, war_losses = ?7, data = ?8
where id = ?9
returning id
