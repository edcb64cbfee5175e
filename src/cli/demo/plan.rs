//! The plan of the demo: entries of the mailbox as the producers write them, and faults of the simulated API. A pure function
//! of the world, a number and a seed.

use std::collections::BTreeSet;

use time::format_description::BorrowedFormatItem;

use crate::{
    clock::Timestamp,
    model::{Kind, ObjectId, Priority, Tag},
    sim::{Census, Endpoint, Misbehaviour, Rule},
};

/// Fewer requests than this are all ordinary.
const MIN_FOR_SPECIALS: usize = 12;

/// The score of the lowest priority.
const LOW: u8 = Priority::Low.as_number();

/// An entry of the mailbox: its score for `refresh_queue` and its value for `refresh_requests`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: String,
    pub score: u8,
    pub value: String,
}

/// The requests of the demo and the faults of its API.
#[derive(Debug)]
pub struct Plan {
    pub entries: Vec<Entry>,
    pub rules: Vec<Rule>,
    /// The requested objects. There are more entries: some are repeated, some unreadable.
    pub objects: BTreeSet<ObjectId>,
    /// Entries that request an object again, in another spelling.
    pub repeated: usize,
    /// Entries that are not a request.
    pub unreadable: usize,
    /// The deliberate faults, for the summary.
    pub specials: Vec<&'static str>,
}

/// Plans `requests` entries, or as many as this world has objects. With `trouble` the API misbehaves now and then.
#[must_use]
pub fn plan(world: &Census, requests: usize, seed: u64, trouble: bool, now: Timestamp) -> Plan {
    let mut planner = Planner { random: fastrand::Rng::with_seed(seed), now, plan: empty() };
    if requests >= MIN_FOR_SPECIALS {
        planner.add_specials(world);
    }
    planner.fill(world, requests);
    planner.repeat_some(requests);
    // Producers write in no order of priority.
    planner.random.shuffle(&mut planner.plan.entries);
    if trouble && requests >= MIN_FOR_SPECIALS {
        planner.misbehave(world);
    }
    planner.plan
}

/// A plain entry for each of the objects.
#[must_use]
pub fn again(objects: &BTreeSet<ObjectId>, now: Timestamp) -> Vec<Entry> {
    objects.iter().map(|object| entry(object, &spelling(&object.tag, 0), Priority::Medium, now)).collect()
}

const fn empty() -> Plan {
    Plan {
        entries: Vec::new(),
        rules: Vec::new(),
        objects: BTreeSet::new(),
        repeated: 0,
        unreadable: 0,
        specials: Vec::new(),
    }
}

struct Planner {
    random: fastrand::Rng,
    now: Timestamp,
    plan: Plan,
}

impl Planner {
    fn request(&mut self, object: ObjectId) {
        let entry = self.entry(&object);
        if self.plan.objects.insert(object) {
            self.plan.entries.push(entry);
        }
    }

    fn entry(&mut self, object: &ObjectId) -> Entry {
        let priority = match self.random.u8(..100) {
            // A mix in which every priority occurs.
            0..5 => Priority::Critical,
            5..25 => Priority::High,
            25..70 => Priority::Medium,
            _ => Priority::Low,
        };
        entry(object, &spelling(&object.tag, self.random.u8(..4)), priority, self.now)
    }

    /// Adds a missing object, a private one, and entries that cannot be read.
    fn add_specials(&mut self, world: &Census) {
        self.request(ObjectId::player(world.unknown_tag()));
        self.plan.specials.push("a player that does not exist (404)");
        if let Some(clan) = world.private_war_log().first() {
            self.request(ObjectId::war(clan.clone()));
            self.plan.specials.push("a private war log (403)");
        }
        let mut unreadable = |id: &str, score, value: &str| {
            self.plan.entries.push(Entry { id: id.to_owned(), score, value: value.to_owned() });
            self.plan.unreadable += 1;
        };
        unreadable("clan:cut-off", 1, "{\"id\": \"clan:cut-off\", \"type\": \"clan\", \"ta");
        let impossible = value("clan:#ABC", Kind::Clan, "#ABC", Priority::High, self.now);
        unreadable("clan:#ABC", 1, &impossible);
        self.plan.specials.push("a truncated entry and an impossible tag (no call is spent on them)");
    }

    /// Adds clans, players and wars in a realistic mix, until there are enough or no more.
    fn fill(&mut self, world: &Census, requests: usize) {
        let wars = [world.clans_in_war(), world.preparation(), world.ended(), world.not_in_war()].concat();
        let mut clans = self.shuffled(world.clan_tags());
        let mut players = self.shuffled(world.player_tags());
        let mut wars = self.shuffled(&wars);
        // The other requests are repetitions, which are added later.
        let wanted = requests.saturating_sub(repeats(requests));
        while self.plan.entries.len() < wanted {
            let order = match self.random.u8(..100) {
                0..60 => [Kind::Player, Kind::Clan, Kind::War],
                60..85 => [Kind::Clan, Kind::Player, Kind::War],
                _ => [Kind::War, Kind::Player, Kind::Clan],
            };
            let drawn = order.into_iter().find_map(|kind| {
                let pool = match kind {
                    Kind::Clan => &mut clans,
                    Kind::Player => &mut players,
                    Kind::War => &mut wars,
                };
                pool.pop().map(|tag| ObjectId::new(kind, tag))
            });
            match drawn {
                Some(object) => self.request(object),
                None => return,
            }
        }
    }

    fn shuffled(&mut self, tags: &[Tag]) -> Vec<Tag> {
        let mut tags = tags.to_vec();
        self.random.shuffle(&mut tags);
        tags
    }

    /// Requests some objects again in another spelling, which the queue merges.
    fn repeat_some(&mut self, requests: usize) {
        let known: Vec<ObjectId> = self.plan.objects.iter().cloned().collect();
        for object in self.random.choose_multiple(&known, repeats(requests)) {
            let tag = format!(" %23{}", object.tag.as_str().to_lowercase());
            self.plan.entries.push(entry(object, &tag, Priority::Critical, self.now));
            self.plan.repeated += 1;
        }
    }

    /// Plans a response about another clan, a bad gateway, and a moment of throttling late in the run.
    fn misbehave(&mut self, world: &Census) {
        // The most urgent ones, which come before the moment of throttling.
        let most_urgent = |kind: Kind, tags: &[Tag]| {
            let known = |object: &ObjectId| object.kind == kind && tags.contains(&object.tag);
            let first = self.readable().filter(|(_, object)| known(object)).min();
            first.map(|(_, object)| object.tag)
        };
        let clan = most_urgent(Kind::Clan, world.clan_tags());
        let player = most_urgent(Kind::Player, world.player_tags());
        if let Some(clan) = clan {
            self.plan.rules.push(Rule::new(Misbehaviour::WrongTag).on(Endpoint::Clan).on_tag(clan.as_str()));
            self.plan.specials.push("a response about another clan");
        }
        if let Some(player) = player {
            let bad_gateway = Rule::new(Misbehaviour::Status502).on(Endpoint::Player).on_tag(player.as_str());
            self.plan.rules.push(bad_gateway.once());
            self.plan.specials.push("a bad gateway (502), retried at once");
        }
        if let Some(object) = self.nearly_last() {
            let throttled = Rule::new(Misbehaviour::Throttled { retry_after: Some(1) });
            let endpoint = match object.kind {
                Kind::Clan => Endpoint::Clan,
                Kind::Player => Endpoint::Player,
                Kind::War => Endpoint::CurrentWar,
            };
            self.plan.rules.push(throttled.on(endpoint).on_tag(object.tag.as_str()).once());
            self.plan.specials.push("a moment of throttling (429) near the end, after which the key slows down");
        }
    }

    /// An object of the lowest priority, which is fetched late, so that most of the run has the full rate.
    fn nearly_last(&self) -> Option<ObjectId> {
        // This many calls after the throttled one are enough to show the slower rate.
        const AFTER_IT: usize = 8;
        let urgent: BTreeSet<ObjectId> = self.readable().filter(|(score, _)| *score < LOW).map(|(_, id)| id).collect();
        self.plan.objects.iter().rev().filter(|object| !urgent.contains(object)).nth(AFTER_IT).cloned()
    }

    fn readable(&self) -> impl Iterator<Item = (u8, ObjectId)> {
        self.plan.entries.iter().filter_map(|entry| Some((entry.score, entry.id.parse().ok()?)))
    }
}

const fn repeats(requests: usize) -> usize {
    // Two in a hundred are requested twice.
    requests / 50
}

/// The tag in the spelling of one of the producers.
fn spelling(tag: &Tag, way: u8) -> String {
    match way {
        0 | 1 => tag.as_str().to_owned(),
        2 => format!("#{}", tag.as_str()),
        _ => format!("#{}", tag.as_str().to_lowercase()),
    }
}

fn entry(object: &ObjectId, tag: &str, priority: Priority, now: Timestamp) -> Entry {
    let id = format!("{}:{tag}", object.kind);
    let value = value(&id, object.kind, tag, priority, now);
    Entry { id, score: priority.as_number(), value }
}

/// The value, byte for byte as the Python producer writes it.
fn value(id: &str, kind: Kind, tag: &str, priority: Priority, now: Timestamp) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        "{{\"id\": {}, \"type\": \"{kind}\", \"tag\": {}, \"priority\": {}, \"requested_at\": \"{}\", \
         \"last_updated\": null, \"retry_count\": 0}}",
        text(id),
        text(tag),
        priority.as_number(),
        naive_utc(now),
    )
}

/// `2026-03-04T05:06:07.089000`, as Python's `datetime.isoformat` writes it.
fn naive_utc(now: Timestamp) -> String {
    const FORM: &[BorrowedFormatItem<'_>] =
        time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]");
    now.to_utc().format(FORM).expect("every part of the form is a part of a time")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_772_600_767_089);

    #[test]
    fn value_matches_the_python_producer() {
        let object: ObjectId = "clan:2PYL0Q8".parse().unwrap();
        assert_eq!(
            entry(&object, "#2pyl0q8", Priority::High, NOW).value,
            "{\"id\": \"clan:#2pyl0q8\", \"type\": \"clan\", \"tag\": \"#2pyl0q8\", \"priority\": 1, \
             \"requested_at\": \"2026-03-04T05:06:07.089000\", \"last_updated\": null, \"retry_count\": 0}"
        );
    }

    async fn world() -> Census {
        use crate::sim::{SimConfig, Simulator};
        Simulator::start(SimConfig { clans: 120, ..SimConfig::default() }).await.unwrap().world()
    }

    #[tokio::test]
    async fn same_seed_plans_the_same() {
        let world = world().await;
        let first = plan(&world, 300, 7, true, NOW);
        assert_eq!(first.entries, plan(&world, 300, 7, true, NOW).entries);
        assert_ne!(first.entries, plan(&world, 300, 8, true, NOW).entries);
        assert_eq!(first.entries.len(), 300);
        assert_eq!(first.objects.len() + first.repeated + first.unreadable, 300);
        let ids: BTreeSet<&str> = first.entries.iter().map(|entry| entry.id.as_str()).collect();
        assert_eq!(ids.len(), 300, "a mailbox has one entry per id");
    }

    #[tokio::test]
    async fn small_worlds_and_small_plans() {
        let world = world().await;
        let all = plan(&world, 1_000_000, 7, true, NOW);
        assert!(all.objects.len() >= world.clan_tags().len() + world.player_tags().len());
        let few = plan(&world, 3, 7, true, NOW);
        assert_eq!((few.entries.len(), few.rules.len(), few.unreadable), (3, 0, 0));
    }

    #[tokio::test]
    async fn readable_entries_name_planned_objects() {
        let plan = plan(&world().await, 200, 7, true, NOW);
        let known = plan.entries.iter().filter(|entry| {
            let value: Result<serde_json::Value, _> = serde_json::from_str(&entry.value);
            let named = value.ok().and_then(|value| {
                let text = |key: &str| value[key].as_str().map(str::to_owned);
                format!("{}:{}", text("type")?, text("tag")?).parse::<ObjectId>().ok()
            });
            named.is_some_and(|object| plan.objects.contains(&object))
        });
        assert_eq!(known.count(), plan.entries.len() - plan.unreadable);
    }
}
