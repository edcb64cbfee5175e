-- Adds ?2 to the logarithm of the level of the side ?1 at the time ?3, from -15 to 15. After ?4 without a step, planning has paused.
insert into refresh_worker_plan_level as l (arm, ln_level, moved_at, listening_since)
values (?1, max(-15.0, min(15.0, ?2)), ?3, ?3)
on conflict (arm) do update set
    ln_level = max(-15.0, min(15.0, case when typeof(l.ln_level) in ('real', 'integer') and l.ln_level between -15 and 15
                                         then l.ln_level else 0.0 end + ?2)),
    moved_at = excluded.moved_at,
    listening_since = case when l.moved_at < ?4 or l.listening_since > excluded.moved_at
                           then excluded.moved_at else l.listening_since end
returning ln_level
