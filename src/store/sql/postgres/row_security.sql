-- Those of the tables $1 that may hide rows from the role, and whether any policy shows it some. Nothing is hidden when a
-- policy lets the role read and write every row, and no restrictive policy applies to it.
WITH policies AS (
    SELECT p.polrelid, p.polpermissive, p.polcmd,
           coalesce(pg_get_expr(p.polqual, p.polrelid), 'true') = 'true'
               AND coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'true') = 'true' AS is_open
    FROM pg_policy AS p
    WHERE 0 = ANY (p.polroles)
       OR EXISTS (SELECT FROM unnest(p.polroles) AS r (oid) WHERE r.oid <> 0 AND pg_has_role(r.oid, 'USAGE'))
)
SELECT n.name,
       EXISTS (SELECT FROM policies AS p WHERE p.polrelid = t.oid AND p.polpermissive),
       quote_ident(current_user)
FROM unnest($1::text[]) AS n (name)
JOIN pg_class AS t ON t.oid = to_regclass(n.name)
WHERE row_security_active(t.oid)
  AND NOT (EXISTS (SELECT FROM policies AS p
                   WHERE p.polrelid = t.oid AND p.polpermissive AND p.polcmd = '*' AND p.is_open)
           AND NOT EXISTS (SELECT FROM policies AS p
                           WHERE p.polrelid = t.oid AND NOT p.polpermissive AND NOT p.is_open))
ORDER BY n.name
