//! The API room over real HTTP: responses scripted byte by byte, and recorded ones.

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
