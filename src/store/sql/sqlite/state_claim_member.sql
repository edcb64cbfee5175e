-- ?2: when the copy of the member list may have been made; ?3: a minute from now. Touches a row only when the copy is
-- the newest word on this player's columns; a time beyond ?3 was written by a wrong clock and counts as older.
insert into refresh_worker_refresh_state (kind, tag, member_at)
values ('player', ?1, ?2)
on conflict (kind, tag) do update set member_at = excluded.member_at
where member_at is null or member_at < excluded.member_at or member_at > ?3
