insert into war_snapshots (ts, clan_tag, data) values (?1, ?2, ?3) returning id
