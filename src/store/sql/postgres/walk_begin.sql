-- Where the walk over refresh_state goes on at the time $1. No row: nothing is to be done for now.
-- A finished walk begins anew after a day: a run without the planner may have stored new objects. So does any walk that nobody
-- has called for an hour, since planning was off. A time that lies ahead was written by a wrong clock.
INSERT INTO refresh_worker.plan_walk AS w (id, kind, tag, finished_at, called_at)
VALUES (1, '', '', NULL, $1)
ON CONFLICT (id) DO UPDATE SET
    (kind, tag, finished_at) = (
        SELECT CASE WHEN n.is_new THEN '' ELSE w.kind END, CASE WHEN n.is_new THEN '' ELSE w.tag END,
               CASE WHEN n.is_new THEN NULL ELSE w.finished_at END
        FROM (
            SELECT NOT w.called_at BETWEEN excluded.called_at - interval '1 hour' AND excluded.called_at + interval '1 minute'
                   OR NOT coalesce(w.finished_at, excluded.called_at)
                          BETWEEN excluded.called_at - interval '1 day' AND excluded.called_at + interval '1 minute' AS is_new
        ) AS n
    ),
    called_at = excluded.called_at
-- A finished walk is written only now and then, to show that planning goes on.
WHERE w.finished_at IS NULL
   OR NOT w.called_at BETWEEN excluded.called_at - interval '10 minutes' AND excluded.called_at + interval '1 minute'
   OR NOT w.finished_at BETWEEN excluded.called_at - interval '1 day' AND excluded.called_at + interval '1 minute'
RETURNING w.kind, w.tag, w.finished_at IS NOT NULL AS is_finished
