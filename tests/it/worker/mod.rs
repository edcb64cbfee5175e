//! Whole runs of the worker against the simulator.

mod bed;
mod daily_quota;
mod followups;
mod judgement;
mod key_slots;
mod many_keys;
mod obstacles;
mod outbox;
mod partitions;
mod planned;
mod portal;
mod redis;
mod run_end;
mod runs;
mod standstill;
mod sustained;
