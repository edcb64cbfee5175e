-- The tables that only the refresh worker uses. The runner creates and drops the schema itself, and keeps its list of migrations
-- there.
CREATE TABLE refresh_worker.refresh_state (
    kind         text NOT NULL,
    tag          text NOT NULL,
    fetched_at   timestamptz,
    changed_at   timestamptz,
    content_hash bytea,
    fresh_until  timestamptz,
    last_outcome text,
    snapshot_id  bigint,
    member_at    timestamptz,
    attacks_at   timestamptz,
    league       json,
    CONSTRAINT refresh_state_pkey PRIMARY KEY (kind, tag)
);
COMMENT ON TABLE refresh_worker.refresh_state IS
    'One row an object that was refreshed or seen in a clan: which answer counts. The first statement of every commit locks these rows in order.';
COMMENT ON COLUMN refresh_worker.refresh_state.kind IS 'clan, player or war';
COMMENT ON COLUMN refresh_worker.refresh_state.tag IS 'upper case, without #; of a war, its clan''s';
COMMENT ON COLUMN refresh_worker.refresh_state.fetched_at IS
    'when the call began whose answer counts; null: known from member lists only';
COMMENT ON COLUMN refresh_worker.refresh_state.changed_at IS 'fetched_at of the response that last changed the content';
COMMENT ON COLUMN refresh_worker.refresh_state.content_hash IS 'SHA-256 of the document as received';
COMMENT ON COLUMN refresh_worker.refresh_state.fresh_until IS 'until when the API gives the same bytes again';
COMMENT ON COLUMN refresh_worker.refresh_state.last_outcome IS 'stored, unchanged, gone, private_war_log or unknown_state';
COMMENT ON COLUMN refresh_worker.refresh_state.snapshot_id IS
    'id of our newest row in clan_snapshots, player_snapshots or war_snapshots; an unchanged answer moves its ts on';
COMMENT ON COLUMN refresh_worker.refresh_state.member_at IS
    'players: copy time of the newest member list that set the columns';
COMMENT ON COLUMN refresh_worker.refresh_state.attacks_at IS
    'players: time of the war that last set the attacks used; they are carried to new rows for seven days';
COMMENT ON COLUMN refresh_worker.refresh_state.league IS 'wars: what is known about the clan''s war league';

-- Inlined into the arbiter, which needs it for every column of a row.
CREATE FUNCTION refresh_worker.wins(claimed timestamptz, stored timestamptz, horizon timestamptz) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT claimed >= CASE WHEN stored <= horizon THEN stored ELSE '-infinity' END $$;
-- Default privileges may withhold it from everybody, and every commit needs it.
GRANT EXECUTE ON FUNCTION refresh_worker.wins(timestamptz, timestamptz, timestamptz) TO PUBLIC;
COMMENT ON FUNCTION refresh_worker.wins(timestamptz, timestamptz, timestamptz) IS
    'Whether a claim is not older than what is stored. A stored time beyond the horizon was written by a wrong clock and counts as older.';

CREATE TABLE refresh_worker.refresh_runs (
    run             text NOT NULL,
    started         timestamptz NOT NULL,
    ended           timestamptz NOT NULL,
    stopped_because text NOT NULL,
    error           text,
    processed       bigint NOT NULL,
    failed          bigint NOT NULL,
    api_requests    bigint NOT NULL,
    report          json NOT NULL,
    CONSTRAINT refresh_runs_pkey PRIMARY KEY (run)
);
CREATE INDEX ix_refresh_runs_started ON refresh_worker.refresh_runs (started);
COMMENT ON TABLE refresh_worker.refresh_runs IS 'One row a run; the newest 10,000 of the last 30 days are kept.';
COMMENT ON COLUMN refresh_worker.refresh_runs.run IS 'the run''s name, as in the log';
COMMENT ON COLUMN refresh_worker.refresh_runs.started IS 'when the run began';
COMMENT ON COLUMN refresh_worker.refresh_runs.ended IS 'when it had given everything back';
COMMENT ON COLUMN refresh_worker.refresh_runs.stopped_because IS 'a stable code: why it stopped';
COMMENT ON COLUMN refresh_worker.refresh_runs.error IS 'why it failed; null: it did not';
COMMENT ON COLUMN refresh_worker.refresh_runs.processed IS 'requests that ended well';
COMMENT ON COLUMN refresh_worker.refresh_runs.failed IS 'attempts that failed';
COMMENT ON COLUMN refresh_worker.refresh_runs.api_requests IS 'calls made';
COMMENT ON COLUMN refresh_worker.refresh_runs.report IS 'the whole report, as in the log';
