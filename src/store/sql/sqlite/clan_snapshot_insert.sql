insert into clan_snapshots (ts, clan_tag, name, member_count, level, war_wins, war_losses, data)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
returning id
