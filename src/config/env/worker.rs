//! Reads the settings of runs, events, caches and logs.

use std::{str::FromStr, time::Duration};

use super::reader::Reader;
use crate::config::{EventsConfig, FollowUpConfig, Pause, TelemetryConfig, WorkerConfig};

impl Reader<'_> {
    pub(super) fn worker(&mut self) -> WorkerConfig {
        let refresh_paused = self.switch("REFRESH_PAUSED");
        let producers_paused = self.switch("DISABLE_AUTO_REFRESH_QUEUE");
        let planner = self.planner();
        WorkerConfig {
            lease: Duration::from_secs(self.number("LEASE_SECONDS", 2..=3600)),
            max_attempts: self.number("MAX_ATTEMPTS", 1..=100),
            deadline_buffer: Duration::from_millis(self.number("DEADLINE_BUFFER_MS", 0..=600_000)),
            max_runtime: self.optional_number("MAX_RUNTIME_SECONDS", 1..=86_400).map(Duration::from_secs),
            paused: if refresh_paused {
                Some(Pause::RefreshPaused)
            } else {
                producers_paused.then_some(Pause::DisableAutoRefreshQueue)
            },
            follow_ups: FollowUpConfig {
                wars: self.switch("FOLLOWUP_WARS"),
                players_per_clan: self.number("FOLLOWUP_PLAYERS_PER_CLAN", 0..=50),
            },
            events: self.events(),
            cache_key_templates: self.cache_key_templates(),
            planner: None,
        }
        .with_planner(planner)
    }

    fn events(&mut self) -> Option<EventsConfig> {
        let max_len = self.number("REFRESH_EVENTS_MAXLEN", 1..=100_000_000);
        let stream = self.own("REFRESH_EVENTS_STREAM")?;
        // Events in a key of the queue would break the queue.
        let is_ours = ["refresh_queue", "refresh_requests"].contains(&stream.as_str())
            || stream.starts_with(&format!("{{{}}}:", self.namespace()));
        if stream.len() > 200 || stream.chars().any(|c| c.is_whitespace() || c.is_control()) || is_ours {
            let expected = "expected the name of a key of its own, at most 200 bytes without white space";
            return self.refuse_as("REFRESH_EVENTS_STREAM", expected, None);
        }
        Some(EventsConfig { stream, max_len })
    }

    fn cache_key_templates(&mut self) -> Vec<String> {
        let text = self.own("CACHE_KEY_TEMPLATES").unwrap_or_default();
        let templates: Vec<String> =
            text.split(',').map(str::trim).filter(|template| !template.is_empty()).map(str::to_owned).collect();
        let is_template = |template: &String| {
            // Any other brace is a misspelled placeholder.
            let rest = template.replace("{tag}", "").replace("{kind}", "");
            template.contains("{tag}")
                && template.len() <= 200
                && !rest.chars().any(|c| matches!(c, '{' | '}') || c.is_whitespace() || c.is_control())
        };
        if templates.len() > 20 || !templates.iter().all(is_template) {
            return self.refuse(
                "CACHE_KEY_TEMPLATES",
                "expected at most 20 keys separated by commas, each with {tag} in it and perhaps {kind}, and no other braces",
            );
        }
        templates
    }

    pub(super) fn telemetry(&mut self) -> TelemetryConfig {
        TelemetryConfig {
            deployment: self.dimension("DEPLOYMENT"),
            environment: self.dimension("ENVIRONMENT"),
            log_level: self.log_level(),
        }
    }

    /// The value of a dimension of the metrics.
    fn dimension(&mut self, name: &'static str) -> String {
        let value = self.text(name).unwrap_or_default();
        if value.len() > 64 || !value.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
            return self.refuse(name, "expected a name of at most 64 ASCII characters");
        }
        value
    }

    /// The name of this deployment where others may be beside it: in the portal, and in the results of jobs.
    pub(super) fn deployment_name(&self) -> String {
        // AWS sets the region in every function. An account of the portal may serve deployments in several.
        let parts = [self.text("DEPLOYMENT"), self.text("ENVIRONMENT"), self.own("AWS_REGION")];
        parts.into_iter().flatten().collect::<Vec<_>>().join("-")
    }

    /// `LOG_LEVEL`, else the log level of the Lambda function, else the default.
    fn log_level(&mut self) -> String {
        let aws = self.own("AWS_LAMBDA_LOG_LEVEL").and_then(|text| level(&text));
        match (self.own("LOG_LEVEL"), aws) {
            // An unknown word there is not our setting, so it is ignored.
            (None, Some(aws)) => aws.to_owned(),
            (None, None) => TelemetryConfig::default().log_level,
            (Some(text), _) => match level(&text) {
                Some(level) => level.to_owned(),
                None if is_filter(&text) => text,
                None => self.refuse(
                    "LOG_LEVEL",
                    "expected TRACE, DEBUG, INFO, WARN, ERROR or OFF, or levels by module such as info,refresh_worker=debug",
                ),
            },
        }
    }
}

/// The level for a word of Python, Rust or AWS.
fn level(text: &str) -> Option<&'static str> {
    Some(match text.to_ascii_lowercase().as_str() {
        "trace" => "trace",
        "debug" => "debug",
        "info" | "notice" => "info",
        "warn" | "warning" => "warn",
        "error" | "critical" | "fatal" => "error",
        "off" | "none" => "off",
        _ => return None,
    })
}

/// True for a list of `module=level`.
fn is_filter(text: &str) -> bool {
    text.contains('=') && tracing_subscriber::filter::Targets::from_str(text).is_ok()
}
