//! What the demo asks for: letters as the producers write them, and the moments at which the simulated API misbehaves.
//! Values only; a pure function of the world, a number and a seed.

use std::collections::BTreeSet;

use time::format_description::BorrowedFormatItem;

use crate::{
    clock::Timestamp,
    model::{Kind, ObjectId, Priority, Tag},
    sim::{Census, Endpoint, Misbehaviour, Rule},
};

/// Below this many requests nothing special happens among them.
const ROOM_FOR_SPECIALS: usize = 12;

/// The score of the lowest class.
const LOW: u8 = Priority::Low.as_number();

/// One entry of the mailbox: written to `refresh_queue` with its score and to `refresh_requests` with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    pub id: String,
    pub score: u8,
    pub value: String,
}

/// What the demo does to worker and API.
#[derive(Debug)]
pub struct Plan {
    pub letters: Vec<Letter>,
    pub rules: Vec<Rule>,
    /// The objects asked for; fewer than letters, since some are asked for twice and some cannot be read.
    pub objects: BTreeSet<ObjectId>,
    /// Letters that ask again for an object, in another spelling.
    pub repeated: usize,
    /// Letters that are no request.
    pub unreadable: usize,
    /// What was put among them on purpose, for the summary.
    pub specials: Vec<&'static str>,
}

/// Plans `requests` letters, or as many as this world has objects for. With `trouble` the API misbehaves now and then.
#[must_use]
pub fn plan(world: &Census, requests: usize, seed: u64, trouble: bool, now: Timestamp) -> Plan {
    let mut planner = Planner { random: fastrand::Rng::with_seed(seed), now, plan: empty() };
    if requests >= ROOM_FOR_SPECIALS {
        planner.add_specials(world);
    }
    planner.fill(world, requests);
    planner.repeat_some(requests);
    planner.random.shuffle(&mut planner.plan.letters);
    if trouble && requests >= ROOM_FOR_SPECIALS {
        planner.misbehave(world);
    }
    planner.plan
}

/// The same objects once more, each as one plain letter.
#[must_use]
pub fn again(objects: &BTreeSet<ObjectId>, now: Timestamp) -> Vec<Letter> {
    objects.iter().map(|object| letter(object, &spelling(&object.tag, 0), Priority::Medium, now)).collect()
}

const fn empty() -> Plan {
    Plan {
        letters: Vec::new(),
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
    fn ask(&mut self, object: ObjectId) {
        let letter = self.letter(&object);
        if self.plan.objects.insert(object) {
            self.plan.letters.push(letter);
        }
    }

    fn letter(&mut self, object: &ObjectId) -> Letter {
        let priority = match self.random.u8(..100) {
            0..5 => Priority::Critical,
            5..25 => Priority::High,
            25..70 => Priority::Medium,
            _ => Priority::Low,
        };
        letter(object, &spelling(&object.tag, self.random.u8(..4)), priority, self.now)
    }

    /// Objects that are not there, that are private, and letters that cannot be read.
    fn add_specials(&mut self, world: &Census) {
        self.ask(ObjectId::player(world.unknown_tag()));
        self.plan.specials.push("a player that does not exist (404)");
        if let Some(clan) = world.private_war_log().first() {
            self.ask(ObjectId::war(clan.clone()));
            self.plan.specials.push("a private war log (403)");
        }
        let mut unreadable = |id: &str, score, value: &str| {
            self.plan.letters.push(Letter { id: id.to_owned(), score, value: value.to_owned() });
            self.plan.unreadable += 1;
        };
        unreadable("clan:cut-off", 1, "{\"id\": \"clan:cut-off\", \"type\": \"clan\", \"ta");
        let impossible = value("clan:#ABC", Kind::Clan, "#ABC", Priority::High, self.now);
        unreadable("clan:#ABC", 1, &impossible);
        self.plan.specials.push("a letter cut off in the middle, and a tag that cannot be (no call spent)");
    }

    /// Clans, players and wars in about the proportion of life, until there are enough or no more.
    fn fill(&mut self, world: &Census, requests: usize) {
        let wars = [world.clans_in_war(), world.preparation(), world.ended(), world.not_in_war()].concat();
        let mut clans = self.shuffled(world.clan_tags());
        let mut players = self.shuffled(world.player_tags());
        let mut wars = self.shuffled(&wars);
        // Room for the letters that ask again.
        let wanted = requests.saturating_sub(repeats(requests));
        while self.plan.letters.len() < wanted {
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
                Some(object) => self.ask(object),
                None => return,
            }
        }
    }

    fn shuffled(&mut self, tags: &[Tag]) -> Vec<Tag> {
        let mut tags = tags.to_vec();
        self.random.shuffle(&mut tags);
        tags
    }

    /// Some objects are asked for a second time, in another spelling: the queue makes one request of the two.
    fn repeat_some(&mut self, requests: usize) {
        let known: Vec<ObjectId> = self.plan.objects.iter().cloned().collect();
        for object in self.random.choose_multiple(&known, repeats(requests)) {
            let tag = format!(" %23{}", object.tag.as_str().to_lowercase());
            self.plan.letters.push(letter(object, &tag, Priority::Critical, self.now));
            self.plan.repeated += 1;
        }
    }

    /// One answer of another clan, one bad gateway, one moment of throttling late in the run.
    fn misbehave(&mut self, world: &Census) {
        // The most urgent ones, so that the moment of throttling does not come in between.
        let asked = |kind: Kind, tags: &[Tag]| {
            let known = |object: &ObjectId| object.kind == kind && tags.contains(&object.tag);
            let first = self.readable().filter(|(_, object)| known(object)).min();
            first.map(|(_, object)| object.tag)
        };
        let clan = asked(Kind::Clan, world.clan_tags());
        let player = asked(Kind::Player, world.player_tags());
        if let Some(clan) = clan {
            self.plan.rules.push(Rule::new(Misbehaviour::WrongTag).on(Endpoint::Clan).on_tag(clan.as_str()));
            self.plan.specials.push("an answer that speaks of another clan");
        }
        if let Some(player) = player {
            let bad_gateway = Rule::new(Misbehaviour::Status502).on(Endpoint::Player).on_tag(player.as_str());
            self.plan.rules.push(bad_gateway.once());
            self.plan.specials.push("a bad gateway (502), tried again in the call");
        }
        if let Some(object) = self.nearly_last() {
            let throttled = Rule::new(Misbehaviour::Throttled { retry_after: Some(1) });
            let endpoint = match object.kind {
                Kind::Clan => Endpoint::Clan,
                Kind::Player => Endpoint::Player,
                Kind::War => Endpoint::CurrentWar,
            };
            self.plan.rules.push(throttled.on(endpoint).on_tag(object.tag.as_str()).once());
            self.plan.specials.push("a throttled moment (429) near the end, after which the key is slower");
        }
    }

    /// An object of the lowest class that will be called for late, so that most of the run has the whole rate.
    fn nearly_last(&self) -> Option<ObjectId> {
        const AFTER_IT: usize = 8;
        let urgent: BTreeSet<ObjectId> = self.readable().filter(|(score, _)| *score < LOW).map(|(_, id)| id).collect();
        self.plan.objects.iter().rev().filter(|object| !urgent.contains(object)).nth(AFTER_IT).cloned()
    }

    fn readable(&self) -> impl Iterator<Item = (u8, ObjectId)> {
        self.plan.letters.iter().filter_map(|letter| Some((letter.score, letter.id.parse().ok()?)))
    }
}

const fn repeats(requests: usize) -> usize {
    requests / 50
}

/// A tag as different producers spell it.
fn spelling(tag: &Tag, way: u8) -> String {
    match way {
        0 | 1 => tag.as_str().to_owned(),
        2 => format!("#{}", tag.as_str()),
        _ => format!("#{}", tag.as_str().to_lowercase()),
    }
}

fn letter(object: &ObjectId, tag: &str, priority: Priority, now: Timestamp) -> Letter {
    let id = format!("{}:{tag}", object.kind);
    let value = value(&id, object.kind, tag, priority, now);
    Letter { id, score: priority.as_number(), value }
}

/// The value exactly as the Python producer writes it.
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
    fn a_value_is_written_as_the_python_producer_writes_it() {
        let object: ObjectId = "clan:2PYL0Q8".parse().unwrap();
        assert_eq!(
            letter(&object, "#2pyl0q8", Priority::High, NOW).value,
            "{\"id\": \"clan:#2pyl0q8\", \"type\": \"clan\", \"tag\": \"#2pyl0q8\", \"priority\": 1, \
             \"requested_at\": \"2026-03-04T05:06:07.089000\", \"last_updated\": null, \"retry_count\": 0}"
        );
    }

    async fn world() -> Census {
        use crate::sim::{SimConfig, Simulator};
        Simulator::start(SimConfig { clans: 120, ..SimConfig::default() }).await.unwrap().world()
    }

    #[tokio::test]
    async fn the_same_seed_asks_for_the_same_and_the_numbers_add_up() {
        let world = world().await;
        let first = plan(&world, 300, 7, true, NOW);
        assert_eq!(first.letters, plan(&world, 300, 7, true, NOW).letters);
        assert_ne!(first.letters, plan(&world, 300, 8, true, NOW).letters);
        assert_eq!(first.letters.len(), 300);
        assert_eq!(first.objects.len() + first.repeated + first.unreadable, 300);
        let ids: BTreeSet<&str> = first.letters.iter().map(|letter| letter.id.as_str()).collect();
        assert_eq!(ids.len(), 300, "a mailbox holds one letter an id");
    }

    #[tokio::test]
    async fn a_world_that_is_too_small_is_asked_for_whole_and_a_handful_without_surprises() {
        let world = world().await;
        let all = plan(&world, 1_000_000, 7, true, NOW);
        assert!(all.objects.len() >= world.clan_tags().len() + world.player_tags().len());
        let few = plan(&world, 3, 7, true, NOW);
        assert_eq!((few.letters.len(), few.rules.len(), few.unreadable), (3, 0, 0));
    }

    #[tokio::test]
    async fn every_letter_but_the_unreadable_names_an_object_that_was_planned() {
        let plan = plan(&world().await, 200, 7, true, NOW);
        let known = plan.letters.iter().filter(|letter| {
            let value: Result<serde_json::Value, _> = serde_json::from_str(&letter.value);
            let named = value.ok().and_then(|value| {
                let text = |key: &str| value[key].as_str().map(str::to_owned);
                format!("{}:{}", text("type")?, text("tag")?).parse::<ObjectId>().ok()
            });
            named.is_some_and(|object| plan.objects.contains(&object))
        });
        assert_eq!(known.count(), plan.letters.len() - plan.unreadable);
    }
}
