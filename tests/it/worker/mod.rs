//! Whole runs of the worker against the simulator.

mod bed;
mod obstacles;
mod runs;
