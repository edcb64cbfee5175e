//! Logs: JSON lines on standard output in Lambda, plain lines on standard error for people.
//!
//! In Lambda every record is one JSON object on one line: `timestamp` (RFC 3339), `level`, `message`, `target`, then the
//! event's own fields, flat and dotted as they were written (`run.id`), and the fields of the spans around it, above all
//! `request_id`. Panics become such a line too.

use std::{error::Error, fmt, io::Write, panic::PanicHookInfo, str::FromStr, sync::Arc};

use serde::ser::{SerializeMap, Serializer};
use serde_json::{Map, Value};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
};
use tracing_subscriber::{
    Layer,
    filter::Targets,
    fmt::MakeWriter,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::{
    clock::{Clock, SystemClock},
    config::TelemetryConfig,
    model::text::on_one_line,
};

// Libraries whose debug and trace lines hide ours; an operator's own filter may show them.
const CHATTY_LIBRARIES: [&str; 7] = ["h2", "hyper", "hyper_util", "reqwest", "rustls", "tower", "lambda_runtime"];

/// Logs JSON lines to standard output. Later calls change nothing.
pub fn init_lambda(config: &TelemetryConfig) {
    let lines = JsonLines::new(std::io::stdout, Arc::new(SystemClock));
    // Fails only when a subscriber is installed already: the first one stays.
    let _ = tracing_subscriber::registry().with(filter(&config.log_level)).with(lines).try_init();
}

/// Makes every panic a line of the log.
pub fn log_panics() {
    std::panic::set_hook(Box::new(log_panic));
}

/// Logs plain lines to standard error, so that standard output stays free for what a command prints.
pub fn init_command_line(config: &TelemetryConfig) {
    let lines = tracing_subscriber::fmt::layer().with_writer(|| OneLine(std::io::stderr())).with_target(false);
    // Fails only when a subscriber is installed already: the first one stays.
    let _ = tracing_subscriber::registry().with(filter(&config.log_level)).with(lines).try_init();
}

/// Writes each line of the log as one line in which everything is visible. The layer writes a whole line at once.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let (line, end) = text.strip_suffix('\n').map_or((&*text, ""), |line| (line, "\n"));
        self.0.write_all(format!("{}{end}", on_one_line(line)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Applies a level to everything but chatty libraries, which stay at `info`; a list of `module=level` is taken as it is.
/// The Lambda runtime repeats every error that a handler returns: the handler has logged it already. A connection of the
/// pool that died while the sandbox was frozen is replaced; nobody needs to know.
fn filter(log_level: &str) -> Targets {
    let filter = Targets::from_str(log_level).unwrap_or_else(|_| Targets::new().with_default(Level::INFO));
    let filter = filter
        .with_target("lambda_runtime::layers::panic", LevelFilter::OFF)
        .with_target("sqlx_core::pool::connection", LevelFilter::OFF);
    if log_level.contains(['=', ',']) || !matches!(log_level, "debug" | "trace") {
        return filter;
    }
    CHATTY_LIBRARIES.iter().fold(filter, |filter, library| filter.with_target(*library, Level::INFO))
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    tracing::error!(
        panic.location = location,
        "the worker panicked, which is a defect: {}",
        text.unwrap_or("no message")
    );
}

/// Writes each event as one JSON object on one line.
#[derive(Debug)]
pub struct JsonLines<W> {
    writer: W,
    clock: Arc<dyn Clock>,
}

impl<W> JsonLines<W> {
    pub const fn new(writer: W, clock: Arc<dyn Clock>) -> Self {
        Self { writer, clock }
    }
}

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.0.extend(outer.0.clone());
            }
        }
        event.record(&mut fields);
        let metadata = event.metadata();
        let Ok(line) = self.line(*metadata.level(), metadata.target(), fields.0) else { return };
        // Machines read the same value, and people see every character of it.
        let mut line = on_one_line(&String::from_utf8_lossy(&line)).into_owned().into_bytes();
        line.push(b'\n');
        // One write a line, so that lines of several writers never mix. There is no other place to report a broken log.
        let _ = self.writer.make_writer_for(metadata).write_all(&line);
    }
}

impl<W> JsonLines<W> {
    fn line(&self, level: Level, target: &str, mut fields: Map<String, Value>) -> serde_json::Result<Vec<u8>> {
        let message = fields.remove("message").unwrap_or_default();
        let mut line = Vec::with_capacity(256);
        let mut serializer = serde_json::Serializer::new(&mut line);
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("timestamp", &self.clock.wall().to_string())?;
        object.serialize_entry("level", level.as_str())?;
        object.serialize_entry("message", &message)?;
        object.serialize_entry("target", target)?;
        for (name, value) in
            fields.iter().filter(|(name, _)| !matches!(name.as_str(), "timestamp" | "level" | "target"))
        {
            object.serialize_entry(name, value)?;
        }
        object.end()?;
        Ok(line)
    }
}

/// The fields of a span or an event, as JSON.
#[derive(Debug, Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    /// Records an error with its causes, since an error's own text does not repeat them.
    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        self.put(field, text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use parking_lot::Mutex;

    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    #[derive(Clone, Debug, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that are logged at a level.
    fn logged(log_level: &str, log: impl FnOnce()) -> Vec<String> {
        let written = Written::default();
        let writer = written.clone();
        let clock = ManualClock::at(Timestamp::from_millis(1_772_600_767_089));
        let lines = JsonLines::new(move || writer.clone(), clock);
        let subscriber = tracing_subscriber::registry().with(filter(log_level)).with(lines);
        tracing::subscriber::with_default(subscriber, log);
        let bytes = written.0.lock().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[derive(Debug, thiserror::Error)]
    #[error("store `clan:2PP`")]
    struct Outer(#[source] io::Error);

    #[test]
    fn event_is_one_flat_json_object() {
        let lines = logged("info", || {
            let span = tracing::error_span!("invocation", request_id = "8f507cfc");
            let _inside = span.enter();
            let error = Outer(io::Error::other("disk full"));
            tracing::warn!(
                player.tag = "2PP",
                job.attempt = 2_u64,
                share = 0.5,
                late = true,
                nothing = None::<u64>,
                error = &error as &dyn Error,
                "two\nlines \"quoted\""
            );
        });
        assert_eq!(
            lines,
            [concat!(
                r#"{"timestamp":"2026-03-04T05:06:07.089Z","level":"WARN","message":"two\nlines \"quoted\"","#,
                r#""target":"refresh_worker::telemetry::tests","error":"store `clan:2PP`: disk full","job.attempt":2,"late":true,"#,
                r#""player.tag":"2PP","request_id":"8f507cfc","share":0.5}"#
            )]
        );
    }

    #[test]
    fn field_cannot_replace_timestamp_or_level() {
        let lines = logged("info", || tracing::info!(timestamp = "never", level = "loud", "said"));
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((&line["level"], &line["timestamp"]), (&"INFO".into(), &"2026-03-04T05:06:07.089Z".into()));
        assert_eq!(lines[0].matches("level").count(), 1);
    }

    #[test]
    fn log_level_filters_lines() {
        let log = || {
            tracing::debug!("detail");
            tracing::info!("news");
            tracing::error!(target: "lambda_runtime::layers::panic", "said twice");
            tracing::warn!(target: "sqlx_core::pool::connection", "a frozen connection died");
            tracing::debug!(target: "hyper::proto", "chatter");
            tracing::debug!(target: "sqlx::query", "SELECT 1");
        };
        let count = |log_level: &str| logged(log_level, log).len();
        assert_eq!((count("info"), count("debug"), count("error"), count("off")), (1, 3, 0, 0));
        assert_eq!(count("warn,hyper=debug"), 1);
    }

    #[test]
    fn request_id_is_there_at_every_level() {
        let lines = logged("error", || {
            let span = tracing::error_span!("invocation", request_id = "8f507cfc");
            span.in_scope(|| tracing::error!("failed"));
        });
        assert!(lines[0].contains(r#""request_id":"8f507cfc""#), "{}", lines[0]);
    }
}
