insert into clan_snapshots (ts, clan_tag, name, member_count, level, war_wins, war_losses, data)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
on conflict (clan_tag, ts) do update set
    name = excluded.name,
    member_count = excluded.member_count,
    level = excluded.level,
    war_wins = excluded.war_wins,
    war_losses = excluded.war_losses,
    data = excluded.data
returning id
