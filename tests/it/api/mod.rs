//! The API room over real HTTP: answers scripted byte by byte, and the recorded ones.

mod answers;
mod budget;
mod league;
mod recordings;
mod rig;
mod scripted;
mod simulated;
