//! `demo`
mod plan;
