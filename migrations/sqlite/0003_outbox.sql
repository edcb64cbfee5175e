-- What commits have to tell others and have not told yet.
create table refresh_worker_outbox (
    note      integer primary key not null,  -- drawn at random
    stored_at text not null,
    words     text not null  -- JSON: the events, and the objects whose copies are old
);
