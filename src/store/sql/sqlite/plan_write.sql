insert or replace into refresh_worker_plan
    (kind, tag, looked_at, next_look, heard_at, changes, watched, mails, exposed, bucket, hinted)
values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
