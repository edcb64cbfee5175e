-- The same stay cannot begin twice.
insert into clan_memberships (player_tag, clan_tag, joined_at)
values (?1, ?2, ?3)
on conflict (player_tag, clan_tag, joined_at) do nothing
