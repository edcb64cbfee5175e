//! The beds: each store on a database of its own.
