-- Entries of commits that are not delivered yet.
create table refresh_worker_outbox (
    id        integer primary key not null,  -- drawn at random
    stored_at text not null,
    payload   text not null  -- JSON: the events, and the objects whose copies are outdated
);
