-- `or replace`: a row that a wrong clock put ahead may come back to a time that another row has.
update or replace war_snapshots set ts = ?1, clan_tag = ?2, data = ?3 where id = ?4
returning id
