-- True when the role may execute a function that can be called without arguments. $1: its schema, or null; $2: its name.
SELECT coalesce(bool_or(has_function_privilege(p.oid, 'EXECUTE')), false), quote_ident(current_user)
FROM pg_proc AS p
JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE p.proname = $2 AND p.pronargs = p.pronargdefaults
  AND (n.nspname = $1 OR ($1 IS NULL AND pg_function_is_visible(p.oid)))
