-- Rows for questions about many reports: reports are large, and reading thousands of them takes seconds.
CREATE TABLE refresh_worker.run_work (
    run         text NOT NULL,
    kind        text NOT NULL,
    priority       text NOT NULL,
    started     timestamptz NOT NULL,
    calls       bigint NOT NULL,
    changed     bigint NOT NULL,
    unchanged   bigint NOT NULL,
    fresh   bigint NOT NULL,
    gone        bigint NOT NULL,
    error       bigint NOT NULL,
    released  bigint NOT NULL,
    CONSTRAINT run_work_pkey PRIMARY KEY (run, kind, priority),
    CONSTRAINT run_work_run_fkey FOREIGN KEY (run) REFERENCES refresh_worker.refresh_runs (run) ON DELETE CASCADE
);
CREATE INDEX ix_run_work_started ON refresh_worker.run_work (started);
COMMENT ON TABLE refresh_worker.run_work IS
    'Results of the calls of each run, by kind and priority. A trigger on refresh_runs writes it; it goes with its run.';
COMMENT ON COLUMN refresh_worker.run_work.run IS 'the run''s name';
COMMENT ON COLUMN refresh_worker.run_work.kind IS 'clan, player or war';
COMMENT ON COLUMN refresh_worker.run_work.priority IS 'critical, high, medium or low';
COMMENT ON COLUMN refresh_worker.run_work.started IS 'when the run began';
COMMENT ON COLUMN refresh_worker.run_work.calls IS 'calls made';
COMMENT ON COLUMN refresh_worker.run_work.changed IS 'answers with new content';
COMMENT ON COLUMN refresh_worker.run_work.unchanged IS 'answers with the stored content';
COMMENT ON COLUMN refresh_worker.run_work.fresh IS 'requests that needed no call';
COMMENT ON COLUMN refresh_worker.run_work.gone IS 'objects that are no more, and private war logs';
COMMENT ON COLUMN refresh_worker.run_work.error IS 'failed attempts';
COMMENT ON COLUMN refresh_worker.run_work.released IS 'requests returned to the queue with nothing counted';

CREATE TABLE refresh_worker.run_errors (
    run     text NOT NULL,
    place   integer NOT NULL,
    object  text NOT NULL,
    started timestamptz NOT NULL,
    text    text NOT NULL,
    CONSTRAINT run_errors_pkey PRIMARY KEY (run, place),
    CONSTRAINT run_errors_run_fkey FOREIGN KEY (run) REFERENCES refresh_worker.refresh_runs (run) ON DELETE CASCADE
);
CREATE INDEX ix_run_errors_object ON refresh_worker.run_errors (object, started);
COMMENT ON TABLE refresh_worker.run_errors IS
    'The errors of each run that name an object. A trigger on refresh_runs writes it; it goes with its run.';
COMMENT ON COLUMN refresh_worker.run_errors.run IS 'the run''s name';
COMMENT ON COLUMN refresh_worker.run_errors.place IS 'the place among the errors of the report';
COMMENT ON COLUMN refresh_worker.run_errors.object IS 'the object, as in `clan:2PP`';
COMMENT ON COLUMN refresh_worker.run_errors.started IS 'when the run began';
COMMENT ON COLUMN refresh_worker.run_errors.text IS 'the error as reported';

-- An unreadable report (PostgreSQL stores `\u0000` in a JSON text, and fails to read it) has no rows.
-- Runs with its owner's rights, so that a role that may write refresh_runs needs no other rights.
CREATE FUNCTION refresh_worker.unfold_report() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        DELETE FROM refresh_worker.run_work WHERE run = NEW.run;
        DELETE FROM refresh_worker.run_errors WHERE run = NEW.run;
    END IF;
    BEGIN
        INSERT INTO refresh_worker.run_work
        SELECT NEW.run, k.key, c.key, NEW.started,
               coalesce((c.value ->> 'calls')::bigint, 0),
               coalesce((c.value ->> 'stored')::bigint, 0),
               coalesce((c.value ->> 'unchanged')::bigint, 0),
               coalesce((c.value ->> 'fresh')::bigint, 0),
               coalesce((c.value ->> 'gone')::bigint, 0) + coalesce((c.value ->> 'private_war_log')::bigint, 0),
               coalesce((c.value ->> 'delayed')::bigint, 0) + coalesce((c.value ->> 'dead_letter')::bigint, 0),
               coalesce((c.value ->> 'released')::bigint, 0) + coalesce((c.value ->> 'lease_lost')::bigint, 0)
        FROM json_each(NEW.report -> 'work_by_kind_and_priority') AS k
        CROSS JOIN LATERAL json_each(k.value) AS c;
        INSERT INTO refresh_worker.run_errors
        SELECT NEW.run, e.place, substring(e.text FROM '^([a-z]+:[^:]+):'), NEW.started, e.text
        FROM json_array_elements_text(
            CASE WHEN json_typeof(NEW.report -> 'errors') = 'array' THEN NEW.report -> 'errors' ELSE '[]' END
        ) WITH ORDINALITY AS e (text, place)
        WHERE e.text ~ '^[a-z]+:[^:]+:';
    EXCEPTION WHEN OTHERS THEN
        RAISE DEBUG 'the report of run % cannot be read: %', NEW.run, SQLERRM;
    END;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION refresh_worker.unfold_report() FROM PUBLIC;
COMMENT ON FUNCTION refresh_worker.unfold_report() IS 'Writes run_work and run_errors from the report of a run.';
CREATE TRIGGER unfold_report AFTER INSERT OR UPDATE ON refresh_worker.refresh_runs
    FOR EACH ROW EXECUTE FUNCTION refresh_worker.unfold_report();

CREATE OR REPLACE VIEW refresh_worker.work AS
SELECT w.run, w.started, (w.started AT TIME ZONE 'UTC')::date AS day, w.kind, w.priority, w.calls, w.changed, w.unchanged,
       w.fresh, w.gone, w.error, w.released
FROM refresh_worker.run_work AS w;

-- Unfold the existing runs, at most 10,000.
UPDATE refresh_worker.refresh_runs SET report = report;

-- The newest good run and the newest failed run may be thousands of runs back, and health reads both.
CREATE INDEX ix_refresh_runs_good ON refresh_worker.refresh_runs (started, run)
    WHERE error IS NULL AND (processed > 0 OR stopped_because IN ('queue_empty', 'deadline', 'max_requests', 'shutdown'));
CREATE INDEX ix_refresh_runs_failed ON refresh_worker.refresh_runs (started, run) WHERE error IS NOT NULL;
