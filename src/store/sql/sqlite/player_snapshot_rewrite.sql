-- ?1: the time, when the row moves. ?12: the document, when it is replaced. A member list changes neither, so that an old
-- document does not look fresh.
update player_snapshots
set ts = coalesce(?1, ts), player_tag = ?2, clan_tag = ?3, name = ?4, role = ?5, town_hall = ?6, trophies = ?7,
    donations = ?8, donations_received = ?9, war_attacks_used = ?10, last_seen = ?11, data = coalesce(?12, data)
where id = ?13
returning id
