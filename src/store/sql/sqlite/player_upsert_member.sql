-- A member list has these four columns. `data` and `deep_link` of a known player keep the player's own document.
-- ?7: the short form, for a player without any row. A player with history only (?9) gets the newest document back.
insert into players as p (tag, name, town_hall, role, clan_tag, updated_at, data, deep_link)
values (?1, ?2, ?3, ?4, ?5, ?6, coalesce(?7, (select s.data from player_snapshots as s where s.id = ?9)), ?8)
on conflict (tag) do update set
    name = excluded.name,
    town_hall = coalesce(excluded.town_hall, p.town_hall),
    role = coalesce(excluded.role, p.role),
    clan_tag = excluded.clan_tag,
    updated_at = excluded.updated_at,
    data = coalesce(p.data, excluded.data),
    deep_link = coalesce(nullif(p.deep_link, ''), excluded.deep_link)
where (p.name, p.clan_tag) is not (excluded.name, excluded.clan_tag)
   or p.town_hall is not coalesce(excluded.town_hall, p.town_hall)
   or p.role is not coalesce(excluded.role, p.role)
   or (p.data is null and excluded.data is not null)
   or coalesce(p.deep_link, '') = ''
