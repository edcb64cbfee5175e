-- ?8: the document, when it is replaced.
update clan_snapshots
set ts = ?1, clan_tag = ?2, name = ?3, member_count = ?4, level = ?5, war_wins = ?6, war_losses = ?7,
    data = coalesce(?8, data)
where id = ?9
returning id
