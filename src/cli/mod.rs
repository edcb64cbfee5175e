//! The command line.
#![allow(dead_code)]
mod progress;
mod summary;
mod text;
