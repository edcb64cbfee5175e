//! What a player's next snapshot row takes from the newest one, above all when the player was last seen.

use sqlx::FromRow;

/// A player's newest snapshot row, as far as the next one depends on it.
#[derive(Clone, Debug, FromRow)]
pub(super) struct NewestRow {
    pub(super) id: i64,
    pub(super) ts: Option<String>,
    #[sqlx(flatten)]
    pub(super) columns: MemberColumns,
    pub(super) war_attacks_used: Option<i32>,
    pub(super) last_seen: Option<String>,
}

/// The columns that a player's own document and a clan's member list both fill.
#[derive(Clone, Debug, FromRow)]
pub(super) struct MemberColumns {
    /// Empty: in no clan.
    pub(super) clan_tag: Option<String>,
    pub(super) name: Option<String>,
    pub(super) role: Option<String>,
    pub(super) town_hall: Option<i32>,
    #[sqlx(flatten)]
    pub(super) numbers: Numbers,
}

/// The numbers that show activity when they move.
#[derive(Clone, Copy, Debug, FromRow)]
pub(super) struct Numbers {
    pub(super) trophies: Option<i32>,
    pub(super) donations: Option<i32>,
    pub(super) donations_received: Option<i32>,
}

impl NewestRow {
    /// `last_seen` after a refresh at `at` that brought these numbers: moves when trophies rose or donations differ,
    /// and is set when it was unknown. A number that either side lacks shows nothing.
    pub(super) fn last_seen_after(&self, new: Numbers, at: &str) -> String {
        let old = self.columns.numbers;
        let rose = matches!((old.trophies, new.trophies), (Some(old), Some(new)) if new > old);
        let active =
            rose || differ(old.donations, new.donations) || differ(old.donations_received, new.donations_received);
        self.seen(active, at)
    }

    /// `last_seen` after a war that shows so many attacks used. Unknown to none is no activity: the war merely began.
    pub(super) fn last_seen_after_war(&self, attacks_used: i32, at: &str) -> String {
        self.seen(self.war_attacks_used.unwrap_or(0) != attacks_used, at)
    }

    fn seen(&self, active: bool, at: &str) -> String {
        match &self.last_seen {
            Some(last_seen) if !active || last_seen.as_str() > at => last_seen.clone(),
            _ => at.to_owned(),
        }
    }
}

fn differ(old: Option<i32>, new: Option<i32>) -> bool {
    matches!((old, new), (Some(old), Some(new)) if old != new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "2026-03-04 05:00:00.000000";
    const AT: &str = "2026-03-04 06:00:00.000000";

    fn row(last_seen: Option<&str>) -> NewestRow {
        NewestRow {
            id: 1,
            ts: Some(BEFORE.to_owned()),
            columns: MemberColumns {
                clan_tag: None,
                name: None,
                role: None,
                town_hall: None,
                numbers: numbers(1000, 10, 20),
            },
            war_attacks_used: None,
            last_seen: last_seen.map(str::to_owned),
        }
    }

    fn numbers(trophies: i32, donations: i32, donations_received: i32) -> Numbers {
        Numbers { trophies: Some(trophies), donations: Some(donations), donations_received: Some(donations_received) }
    }

    #[test]
    fn last_seen_moves_when_trophies_rise_or_donations_differ() {
        for active in [numbers(1001, 10, 20), numbers(1000, 0, 20), numbers(1000, 10, 21)] {
            assert_eq!(row(Some(BEFORE)).last_seen_after(active, AT), AT, "{active:?}");
        }
    }

    #[test]
    fn last_seen_stays_when_nothing_moved_or_trophies_fell() {
        for idle in [numbers(1000, 10, 20), numbers(990, 10, 20)] {
            assert_eq!(row(Some(BEFORE)).last_seen_after(idle, AT), BEFORE, "{idle:?}");
        }
        let unknown = Numbers { trophies: None, donations: None, donations_received: None };
        assert_eq!(row(Some(BEFORE)).last_seen_after(unknown, AT), BEFORE);
    }

    #[test]
    fn last_seen_is_set_when_unknown_and_never_goes_back() {
        assert_eq!(row(None).last_seen_after(numbers(1000, 10, 20), AT), AT);
        assert_eq!(row(Some(AT)).last_seen_after(numbers(2000, 10, 20), BEFORE), AT);
    }

    #[test]
    fn attacks_used_show_activity_unless_the_war_merely_began() {
        assert_eq!(row(Some(BEFORE)).last_seen_after_war(0, AT), BEFORE);
        assert_eq!(row(Some(BEFORE)).last_seen_after_war(1, AT), AT);
        let used = NewestRow { war_attacks_used: Some(2), ..row(Some(BEFORE)) };
        assert_eq!(used.last_seen_after_war(2, AT), BEFORE);
        assert_eq!(used.last_seen_after_war(0, AT), AT);
    }
}
