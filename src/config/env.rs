//! Reads the environment.
