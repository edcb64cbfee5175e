-- What commits have to tell others (the stream of events, the caches of readers), kept until it is told.
CREATE TABLE refresh_worker.outbox (
    note      bigint NOT NULL,
    stored_at timestamptz NOT NULL,
    words     text NOT NULL,
    CONSTRAINT outbox_pkey PRIMARY KEY (note)
);
COMMENT ON TABLE refresh_worker.outbox IS
    'What commits have to tell others and have not told yet: a row lives for moments, unless its run died.';
COMMENT ON COLUMN refresh_worker.outbox.note IS 'drawn at random';
COMMENT ON COLUMN refresh_worker.outbox.stored_at IS 'when the commit was made';
COMMENT ON COLUMN refresh_worker.outbox.words IS 'JSON: the events, and the objects whose copies are old';
