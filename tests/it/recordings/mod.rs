//! Recorded responses of the real API through the real path: HTTP, client, verdict, store, and the view of readers.
//!
//! The recordings are not part of the repository. `COC_FIXTURES_DIR` names a folder whose `manifest.json` describes
//! them; without it these tests print one line and pass.
#![cfg(feature = "embedded")]

mod clans;
mod errors;
mod folder;
mod path;
mod players;
mod readers;
mod wars;
