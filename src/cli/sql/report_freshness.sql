SELECT kind, objects, fresh_5_min, fresh_30_min, fresh_2_h, fresh_8_h, older, never_fetched, median_age_seconds, changed_24_h
FROM refresh_worker.freshness
ORDER BY kind
