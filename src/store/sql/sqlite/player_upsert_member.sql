-- A clan reply knows these four columns; `data` and `deep_link` of a known player stay as his own document left them.
insert into players (tag, name, town_hall, role, clan_tag, updated_at, data, deep_link)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
on conflict (tag) do update set
    name = excluded.name,
    town_hall = coalesce(excluded.town_hall, town_hall),
    role = coalesce(excluded.role, role),
    clan_tag = excluded.clan_tag,
    updated_at = excluded.updated_at
