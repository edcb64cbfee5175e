insert into players (tag, name, town_hall, role, clan_tag, updated_at, data, deep_link)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
on conflict (tag) do update set
    name = excluded.name,
    town_hall = excluded.town_hall,
    role = excluded.role,
    clan_tag = excluded.clan_tag,
    updated_at = excluded.updated_at,
    data = excluded.data,
    deep_link = excluded.deep_link
