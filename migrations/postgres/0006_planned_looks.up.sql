-- The freshness planner: what it knows of each object, and when it calls for it next. Only read and written with the planner on.
CREATE TABLE refresh_worker.plan (
    -- Times first: no bytes are lost to alignment.
    looked_at timestamptz,
    next_look timestamptz NOT NULL,
    heard_at  timestamptz,
    changes   real NOT NULL DEFAULT 0,
    watched   real NOT NULL DEFAULT 0,
    mails     real NOT NULL DEFAULT 0,
    exposed   real NOT NULL DEFAULT 0,
    bucket    smallint NOT NULL DEFAULT 0,
    hinted    boolean NOT NULL DEFAULT false,
    kind      text NOT NULL,
    tag       text NOT NULL,
    CONSTRAINT plan_pkey PRIMARY KEY (kind, tag)
) WITH (fillfactor = 80);
CREATE INDEX ix_plan_next_look ON refresh_worker.plan (next_look);
COMMENT ON TABLE refresh_worker.plan IS
    'One row an object: what the freshness planner has learned, and the next planned look. TRUNCATE forgets it all; it is learned again.';
COMMENT ON COLUMN refresh_worker.plan.kind IS 'clan, player or war';
COMMENT ON COLUMN refresh_worker.plan.tag IS 'as in refresh_state';
COMMENT ON COLUMN refresh_worker.plan.looked_at IS 'when the last call began whose response counted; null: none';
COMMENT ON COLUMN refresh_worker.plan.next_look IS 'when a spare call is worth it; requests do not wait for it';
COMMENT ON COLUMN refresh_worker.plan.heard_at IS 'the last request of a reader; null: none';
COMMENT ON COLUMN refresh_worker.plan.changes IS 'changes seen, as an expected number that fades within weeks';
COMMENT ON COLUMN refresh_worker.plan.watched IS 'seconds between looks in which they were seen; fade alike';
COMMENT ON COLUMN refresh_worker.plan.mails IS 'reads that left a request; fade within days';
COMMENT ON COLUMN refresh_worker.plan.exposed IS 'seconds in which a read would have left a request; fade alike';
COMMENT ON COLUMN refresh_worker.plan.bucket IS
    'hash of the clan''s tag where the clan is known, else of its own, 0 to 9999: a clan and its members share the side of a trial';
COMMENT ON COLUMN refresh_worker.plan.hinted IS 'a member list has shown a change since the last look';

CREATE TABLE refresh_worker.plan_level (
    arm             text NOT NULL,
    ln_level        double precision NOT NULL,
    moved_at        timestamptz NOT NULL,
    listening_since timestamptz NOT NULL,
    CONSTRAINT plan_level_pkey PRIMARY KEY (arm)
);
COMMENT ON TABLE refresh_worker.plan_level IS 'The level of each side of a trial: the stale reads that the last planned call still saves.';
COMMENT ON COLUMN refresh_worker.plan_level.arm IS 'main, or trial';
COMMENT ON COLUMN refresh_worker.plan_level.ln_level IS 'its natural logarithm, from -15 to 15; runs add to it';
COMMENT ON COLUMN refresh_worker.plan_level.moved_at IS 'when a run last added to it';
COMMENT ON COLUMN refresh_worker.plan_level.listening_since IS
    'when planning began, or went on after a pause of more than an hour; readers could not be counted before';

CREATE TABLE refresh_worker.plan_walk (
    id          smallint NOT NULL,
    kind        text NOT NULL,
    tag         text NOT NULL,
    finished_at timestamptz,
    called_at   timestamptz NOT NULL,
    CONSTRAINT plan_walk_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE refresh_worker.plan_walk IS
    'A single row: how far the walk over refresh_state is that gives every known object a row in plan.';
COMMENT ON COLUMN refresh_worker.plan_walk.id IS 'always 1';
COMMENT ON COLUMN refresh_worker.plan_walk.kind IS 'kind of the last object that was looked at';
COMMENT ON COLUMN refresh_worker.plan_walk.tag IS 'its tag';
COMMENT ON COLUMN refresh_worker.plan_walk.finished_at IS 'when the walk reached the end; it begins anew a day later. Null: under way';
COMMENT ON COLUMN refresh_worker.plan_walk.called_at IS 'when a run last went on with it; it begins anew after a pause of an hour';

CREATE TABLE refresh_worker.looks (
    at       timestamptz NOT NULL,
    kind     text NOT NULL,
    tag      text NOT NULL,
    changed  boolean,
    active   boolean,
    asked_at timestamptz
);
CREATE INDEX ix_looks_at ON refresh_worker.looks (at);
COMMENT ON TABLE refresh_worker.looks IS
    'A sample of what the planner saw, for replays: a share of the clans with all their members, for 14 days.';
COMMENT ON COLUMN refresh_worker.looks.at IS 'when the call began';
COMMENT ON COLUMN refresh_worker.looks.kind IS 'clan, player or war';
COMMENT ON COLUMN refresh_worker.looks.tag IS 'as in refresh_state';
COMMENT ON COLUMN refresh_worker.looks.changed IS 'a response: its content was new; null: the row is a member in a list';
COMMENT ON COLUMN refresh_worker.looks.active IS 'a member in a list: trophies or donations differ; null: the row is a response';
COMMENT ON COLUMN refresh_worker.looks.asked_at IS 'the first request of a reader that the response answered; null: nobody asked';
