//! The queue without a server.
