-- When a war last told this player's attacks.
insert into refresh_worker_refresh_state (kind, tag, attacks_at)
values ('player', ?1, ?2)
on conflict (kind, tag) do update set attacks_at = excluded.attacks_at
