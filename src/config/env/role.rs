//! Reads the role of the process.

use super::reader::Reader;
use crate::config::{ConfigErrors, variables::Vars};

/// The role of the process. The health role needs no API key and few connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    #[default]
    Refresh,
    Health,
}

impl Role {
    /// Reads `_HANDLER` (the name of the function's handler) or `WORKER_ROLE`.
    pub fn read(vars: Vars<'_>) -> Result<Self, ConfigErrors> {
        match vars("_HANDLER").as_deref().map(str::trim) {
            // infra/ names the handler; the variable is for other deployments.
            Some("refresh") => return Ok(Self::Refresh),
            Some("health") => return Ok(Self::Health),
            _ => {}
        }
        let mut reader = Reader::new(vars);
        let role = match reader.text("WORKER_ROLE").map(|role| role.to_ascii_lowercase()).as_deref() {
            None | Some("refresh") => Self::Refresh,
            Some("health") => Self::Health,
            Some(_) => reader.refuse("WORKER_ROLE", "expected refresh or health"),
        };
        reader.finish(role)
    }
}
