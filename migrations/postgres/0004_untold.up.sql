-- What commits have to tell others (the stream of events, the caches of readers), kept until it is told.
CREATE TABLE refresh_worker.untold (
    note      bigint NOT NULL,
    stored_at timestamptz NOT NULL,
    words     text NOT NULL,
    CONSTRAINT untold_pkey PRIMARY KEY (note)
);
COMMENT ON TABLE refresh_worker.untold IS
    'What commits have to tell others and have not told yet: a row lives for moments, unless its run died.';
COMMENT ON COLUMN refresh_worker.untold.note IS 'drawn at random';
COMMENT ON COLUMN refresh_worker.untold.stored_at IS 'when the commit was made';
COMMENT ON COLUMN refresh_worker.untold.words IS 'JSON: the events, and the objects whose copies are old';
