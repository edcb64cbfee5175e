-- The freshness planner. Only read and written with the planner on.

create table refresh_worker_plan (
    kind      text not null,  -- clan, player or war
    tag       text not null,
    looked_at text,  -- when the last call began whose response counted
    next_look text not null,  -- when a spare call is worth it
    heard_at  text,  -- the last request of a reader
    changes   real not null default 0,  -- changes seen, fading
    watched   real not null default 0,  -- seconds in which they were seen
    mails     real not null default 0,  -- reads that left a request, fading
    exposed   real not null default 0,  -- seconds in which a read would have left one
    bucket    integer not null default 0,  -- hash of the clan's tag where known, else of its own, 0 to 9999
    hinted    integer not null default 0,  -- a member list has shown a change since the last look
    primary key (kind, tag)
) without rowid;

create index ix_refresh_worker_plan_next_look on refresh_worker_plan (next_look);

-- The level of each side of a trial: the stale reads that the last planned call still saves.
create table refresh_worker_plan_level (
    arm             text primary key not null,  -- main, or trial
    ln_level        real not null,  -- its natural logarithm
    moved_at        text not null,
    listening_since text not null  -- when planning began, or went on after a pause
) without rowid;

-- A single row: how far the walk over refresh_state is that gives every known object a row in plan.
create table refresh_worker_plan_walk (
    id          integer primary key not null,
    kind        text not null,
    tag         text not null,
    finished_at text,  -- null: under way
    called_at   text not null
);

-- A sample of what the planner saw, for replays.
create table refresh_worker_looks (
    at       text not null,
    kind     text not null,
    tag      text not null,
    changed  integer,  -- a response: its content was new
    active   integer,  -- a member in a list: trophies or donations differ
    asked_at text
);

create index ix_refresh_worker_looks_at on refresh_worker_looks (at);
