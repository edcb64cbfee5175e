-- The encoding of the database, whether any document is `jsonb`, and the narrowest columns for names and roles.
SELECT getdatabaseencoding()::text AS encoding,
       coalesce(bool_or(a.attname = 'data' AND a.atttypid = 'jsonb'::regtype), false) AS has_jsonb,
       min(a.atttypmod - 4) FILTER (WHERE a.attname = 'name' AND a.atttypmod > 4) AS name_width,
       min(a.atttypmod - 4) FILTER (WHERE a.attname = 'role' AND a.atttypmod > 4) AS role_width
FROM unnest(ARRAY['clans', 'players', 'clan_snapshots', 'player_snapshots', 'war_snapshots']) AS t (name)
JOIN pg_attribute AS a ON a.attrelid = to_regclass(t.name)
WHERE a.attname IN ('data', 'name', 'role') AND NOT a.attisdropped
