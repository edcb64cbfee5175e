insert into refresh_worker_refresh_runs
    (run, started, ended, stopped_because, error, processed, failed, api_requests, report)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
on conflict (run) do update set
    started = excluded.started,
    ended = excluded.ended,
    stopped_because = excluded.stopped_because,
    error = excluded.error,
    processed = excluded.processed,
    failed = excluded.failed,
    api_requests = excluded.api_requests,
    report = excluded.report
where refresh_worker_refresh_runs.started = excluded.started
