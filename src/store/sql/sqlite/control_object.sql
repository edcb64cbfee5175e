-- An object of kind ?1 with a good response since ?3, and none of the tags ?4. Objects whose copy the API would only repeat at
-- ?2 come last.
select tag from refresh_worker_refresh_state
where kind = ?1 and last_outcome in ('stored', 'unchanged') and fetched_at > ?3 and tag not in (select value from json_each(?4))
order by fresh_until > ?2, fetched_at desc
limit 1
