insert into clans (tag, data, updated_at, deep_link)
values (?1, ?2, ?3, ?4)
on conflict (tag) do update set
    data = excluded.data,
    updated_at = excluded.updated_at,
    deep_link = excluded.deep_link
