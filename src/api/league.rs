//! The league path of a war.
