select run, started, ended, stopped_because, error, processed, failed, api_requests, report
from refresh_worker_refresh_runs
order by started desc
limit 1
