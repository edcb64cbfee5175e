-- Of these tables ($1) those in which rows may be hidden from the role, and whether any policy lets it see some.
SELECT n.name,
       EXISTS (
           SELECT FROM pg_policy AS p
           WHERE p.polrelid = t.oid AND p.polpermissive
             AND (0 = ANY (p.polroles)
                  OR EXISTS (SELECT FROM unnest(p.polroles) AS r (oid) WHERE r.oid <> 0 AND pg_has_role(r.oid, 'USAGE')))
       ),
       quote_ident(current_user)
FROM unnest($1::text[]) AS n (name)
JOIN pg_class AS t ON t.oid = to_regclass(n.name)
WHERE row_security_active(t.oid)
ORDER BY n.name
