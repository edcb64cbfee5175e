-- ?3: the document, when it is replaced.
update war_snapshots set ts = ?1, clan_tag = ?2, data = coalesce(?3, data) where id = ?4 returning id
