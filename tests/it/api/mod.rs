//! The API room over real HTTP: answers scripted byte by byte, and the recorded ones.

mod answers;
mod budget;
mod laboratory;
mod league;
mod learning;
mod odd_bytes;
mod recordings;
mod rig;
pub mod scripted;
mod simulated;
mod unknown_war;
