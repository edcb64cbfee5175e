//! The test bed: the real parts that tests run against, and nothing that knows what is tested.
//!
//! [`redis`] and [`postgres`] give every test a database of its own on one private server each, started when the first
//! test asks and gone when the test process ends, however it ends ([`server`] says how). With `TEST_REDIS_URL` or
//! `TEST_DATABASE_URL` set, the databases are made on those servers instead: they must be servers for tests only,
//! since databases are emptied there and some (`refresh_worker_test_*`) stay behind.
//!
//! [`process`] runs the binary as Lambda does, through the Runtime API of [`runtime_api`]; [`proxy`] stands between it and
//! its servers when a test needs a bad network.
#![allow(dead_code, reason = "each bench uses a part of the bed")]

pub mod forwarder;
pub mod pgbouncer;
pub mod pooler;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod runtime_api;
pub mod server;
pub mod tls;
