SELECT count(*) AS total_jobs,
       coalesce(sum(total_objects), 0)::bigint AS total_objects,
       coalesce(sum(succeeded_count), 0)::bigint AS processed_objects,
       coalesce(sum(total_findings), 0)::bigint AS total_findings,
       count(*) FILTER (WHERE queued_count > 0 OR processing_count > 0) AS active_jobs
