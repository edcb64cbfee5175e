select id, ts from clan_snapshots where clan_tag = ?1 order by ts desc limit 1
