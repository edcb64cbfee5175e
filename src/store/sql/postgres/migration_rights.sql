-- The role's rights to create tables here.
SELECT quote_ident(current_user) AS role,
       quote_ident(current_database()) AS database,
       quote_ident(current_schema()) AS contract_schema,
       NOT EXISTS (
           SELECT FROM unnest(ARRAY['clans', 'players', 'clan_snapshots', 'player_snapshots', 'war_snapshots',
                                    'clan_memberships']) AS t (name)
           WHERE to_regclass(t.name) IS NULL
       ) AS contract_exists,
       s.oid IS NOT NULL AS schema_exists,
       has_database_privilege(current_database(), 'CREATE') AS may_create_schema,
       coalesce(has_schema_privilege(s.oid, 'CREATE') AND has_schema_privilege(s.oid, 'USAGE'), false) AS may_create_own,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create_contract
FROM (SELECT 1) AS one
LEFT JOIN pg_namespace AS s ON s.nspname = 'refresh_worker'
