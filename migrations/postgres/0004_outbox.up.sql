-- What commits have to publish (events, outdated copies of readers), kept until it is delivered.
CREATE TABLE refresh_worker.outbox (
    id        bigint NOT NULL,
    stored_at timestamptz NOT NULL,
    payload   text NOT NULL,
    CONSTRAINT outbox_pkey PRIMARY KEY (id)
);
CREATE INDEX ix_outbox_stored_at ON refresh_worker.outbox (stored_at, id);
COMMENT ON TABLE refresh_worker.outbox IS
    'Entries of commits that are not delivered yet. An entry lives for moments, unless its run died.';
COMMENT ON COLUMN refresh_worker.outbox.id IS 'drawn at random';
COMMENT ON COLUMN refresh_worker.outbox.stored_at IS 'when the commit was made';
COMMENT ON COLUMN refresh_worker.outbox.payload IS 'JSON: the events, and the objects whose copies are outdated';
