-- Looks planned for later than $1 were written by a wrong clock. They are spread over $2 seconds from $3 on, some at a time.
UPDATE refresh_worker.plan AS p
SET next_look = $3::timestamptz + p.bucket / 10000.0 * $2::double precision * interval '1 second'
WHERE p.ctid = ANY (ARRAY(
    -- Rows that others hold are left for the next step: nobody waits out of order.
    SELECT k.ctid FROM refresh_worker.plan AS k WHERE k.next_look > $1
    ORDER BY k.next_look DESC LIMIT 1000
    FOR UPDATE SKIP LOCKED))
