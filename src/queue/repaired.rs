//! The repairs that the queue made to what others deleted, changed or wrote by hand.

/// Repairs that were made, by their kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Records that were missing or broken while their object's name was left: rebuilt from what could be read.
    pub records: usize,
    /// Objects that stood in no set or in a wrong one.
    pub places: usize,
    /// Names that are not an object: dead letters now.
    pub invalid_entries: usize,
    /// Counters and scan cursors that held something else and were reset.
    pub counters: usize,
}

impl Repaired {
    #[must_use]
    pub const fn total(&self) -> usize {
        self.records + self.places + self.invalid_entries + self.counters
    }

    pub const fn add(&mut self, other: Self) {
        self.records += other.records;
        self.places += other.places;
        self.invalid_entries += other.invalid_entries;
        self.counters += other.counters;
    }
}
