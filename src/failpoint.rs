//! Failpoints: named places where a test makes this process kill or stop itself. A leaf.
//!
//! `failpoint!("commit.before_commit")` compiles to nothing without the cargo feature `failpoints`. The feature is never
//! a default, and no package has it. With the feature, the variable `FAILPOINT` gives one order to the process:
//!
//! ```text
//! FAILPOINT=commit.before_commit=kill        SIGKILL at the first passage
//! FAILPOINT=commit.before_commit:3=kill      at the third
//! FAILPOINT=fetch.answered@#2PP=kill         at the first passage with this tag
//! FAILPOINT=settle.before=stop               SIGSTOP; whoever started the process may let it continue
//! FAILPOINT=commit.answer@#2PP=panic         a panic, at this passage and every later one
//! ```
//!
//! `SLOT_LIFETIME_MS` shortens the life of key slots, so that a test need not wait for them.
//!
//! The process first reports the failpoint on standard error, so that a test knows that it was reached.

#[cfg(not(feature = "failpoints"))]
macro_rules! failpoint {
    ($($anything:tt)*) => {};
}

#[cfg(feature = "failpoints")]
macro_rules! failpoint {
    ($name:literal) => {
        failpoint!($name, "")
    };
    ($name:literal, $tag:expr) => {{
        const { assert!($crate::failpoint::is_known($name), "a failpoint that is not in failpoint::ALL") };
        $crate::failpoint::pass($name, $tag);
    }};
}

#[cfg(feature = "failpoints")]
pub use self::orders::{ALL, is_known, pass, slot_lifetime};

#[cfg(feature = "failpoints")]
mod orders {
    use std::{
        sync::{
            OnceLock,
            atomic::{AtomicU32, Ordering},
        },
        time::Duration,
    };

    use rustix::process::{Signal, getpid, kill_process};

    /// All failpoints, in the order in which a run passes them.
    pub const ALL: [&str; 33] = [
        "run.opened",
        "slot.before_take",
        "slot.after_take",
        "mail.before_read",
        "mail.after_read",
        "admit.before",
        "admit.after",
        "lease.before",
        "lease.after",
        "claim.before",
        "claim.after",
        "freshness.before",
        "freshness.after",
        "permit.before",
        "permit.after",
        "call.before_send",
        "call.head_received",
        "call.body_received",
        "fetch.answered",
        "commit.before_begin",
        "commit.begun",
        "commit.answer",
        "commit.after_arbiter",
        "commit.before_commit",
        "commit.after_commit",
        "settle.before",
        "settle.after",
        "renew.before",
        "renew.after",
        "slot.before_give_back",
        "slot.after_give_back",
        "run_row.before",
        "run_row.after",
    ];

    /// True for a name in [`ALL`]. Evaluated at compile time.
    #[must_use]
    pub const fn is_known(name: &str) -> bool {
        let mut at = 0;
        while at < ALL.len() {
            if are_equal(ALL[at].as_bytes(), name.as_bytes()) {
                return true;
            }
            at += 1;
        }
        false
    }

    const fn are_equal(one: &[u8], other: &[u8]) -> bool {
        let mut at = 0;
        while at < one.len() && at < other.len() && one[at] == other[at] {
            at += 1;
        }
        at == one.len() && at == other.len()
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Action {
        Kill,
        Stop,
        Panic,
    }

    /// The order in `FAILPOINT`.
    #[derive(Debug, PartialEq, Eq)]
    struct Order {
        name: String,
        tag: Option<String>,
        passage: u32,
        action: Action,
    }

    impl Order {
        fn parse(text: &str) -> Option<Self> {
            let (place, action) = text.split_once('=')?;
            let action = match action {
                "kill" => Action::Kill,
                "stop" => Action::Stop,
                "panic" => Action::Panic,
                _ => return None,
            };
            let (place, passage) = place.split_once(':').unwrap_or((place, "1"));
            let (name, tag) = place.split_once('@').map_or((place, None), |(name, tag)| (name, Some(tag)));
            let tag = tag.map(|tag| tag.trim_start_matches('#').to_owned());
            let passage = passage.parse().ok().filter(|passage| *passage > 0)?;
            is_known(name).then(|| Self { name: name.to_owned(), tag, passage, action })
        }

        fn from_environment() -> Option<Self> {
            let text = std::env::var("FAILPOINT").ok().filter(|text| !text.is_empty())?;
            let order = Self::parse(&text);
            assert!(order.is_some(), "FAILPOINT is `{text}`: expected NAME[@TAG][:PASSAGE]=kill, =stop or =panic");
            order
        }

        fn means(&self, name: &str, tag: &str) -> bool {
            self.name == name && self.tag.as_ref().is_none_or(|wanted| wanted == tag.trim_start_matches('#'))
        }
    }

    /// `SLOT_LIFETIME_MS`.
    #[must_use]
    pub fn slot_lifetime() -> Option<Duration> {
        std::env::var("SLOT_LIFETIME_MS").ok()?.parse().ok().map(Duration::from_millis)
    }

    /// Passes a failpoint. Kills, stops or panics when that is the order.
    ///
    /// # Panics
    /// When the order is `panic`.
    pub fn pass(name: &'static str, tag: &str) {
        static ORDER: OnceLock<Option<Order>> = OnceLock::new();
        static PASSED: AtomicU32 = AtomicU32::new(0);
        let Some(order) = ORDER.get_or_init(Order::from_environment) else { return };
        if !order.means(name, tag) {
            return;
        }
        let passage = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(order.action != Action::Panic || passage < order.passage, "failpoint {name} reached");
        if passage == order.passage {
            eprintln!("failpoint {name} reached");
            let signal = if order.action == Action::Stop { Signal::STOP } else { Signal::KILL };
            // Only a missing process cannot be signalled.
            let _ = kill_process(getpid(), signal);
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn order_has_place_tag_and_passage() {
            let order = Order::parse("fetch.answered@#2PP:3=stop").unwrap();
            let name = "fetch.answered".to_owned();
            assert_eq!(order, Order { name, tag: Some("2PP".to_owned()), passage: 3, action: Action::Stop });
            assert!(order.means("fetch.answered", "#2PP") && !order.means("fetch.answered", "2PQ"));
            assert!(Order::parse("settle.before=kill").unwrap().means("settle.before", ""));
        }

        #[test]
        fn invalid_order_is_refused() {
            for text in ["settle.before", "settle.befor=kill", "settle.before=hide", "settle.before:0=kill", "=kill"] {
                assert_eq!(Order::parse(text), None, "{text}");
            }
        }
    }
}
