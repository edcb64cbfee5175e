-- The tables that only the refresh worker uses. PostgreSQL has them in a schema of their own; here the prefix replaces it.

create table refresh_worker_refresh_state (
    kind         text not null,  -- clan, player or war
    tag          text not null,  -- of a war, its clan's
    fetched_at   text,  -- when the call began whose answer counts; null: known from a member list only
    changed_at   text,  -- when the content was last seen to differ
    content_hash text,  -- SHA-256 of the document as received
    fresh_until  text,  -- until when the API gives the same bytes again
    last_outcome text,  -- stored, unchanged, gone or private_war_log
    snapshot_id  integer,  -- our newest row in the kind's snapshot table
    member_at    text,  -- players: copy time of the newest member list that set the columns
    attacks_at   text,  -- players: time of the war that last set the attacks used, which expire after a week
    league       text check (json_valid(league)),  -- wars: what is known about the clan's league
    primary key (kind, tag)
) without rowid;

create table refresh_worker_refresh_runs (
    run             text primary key not null,
    started         text not null,
    ended           text not null,
    stopped_because text not null,
    error           text,
    processed       integer not null,
    failed          integer not null,
    api_requests    integer not null,
    report          text not null  -- the whole report as JSON
) without rowid;

create index ix_refresh_worker_refresh_runs_started on refresh_worker_refresh_runs (started);
