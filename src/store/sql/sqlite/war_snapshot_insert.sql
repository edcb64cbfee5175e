insert into war_snapshots (ts, clan_tag, data)
values (?1, ?2, ?3)
on conflict (clan_tag, ts) do update set data = excluded.data
returning id
