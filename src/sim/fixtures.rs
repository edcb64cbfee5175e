//! Recorded responses in place of a world: the same bytes, statuses and headers, under the paths they belong to.
//!
//! `manifest.json` in the folder names endpoint, tag, status and headers of each file. Where it has no tag, the body decides:
//!
//! - A war belongs to its `clan`, and a league group to each of its clans.
//! - A league war belongs to the first free war tag in a group of both its clans, else to a tag made up for it.
//! - A raid season belongs to the clan with most of its people.
//! - Bodies without names, such as `notInWar` and the refusals, belong to the clans without any other recording.
//!
//! Several recordings under one path are pages, in the order of the manifest; [`Recordings::turn_page`] goes on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;

use super::{
    Census,
    answer::{Answer, CacheControl, JSON, JSON_UTF8},
    names,
    request::{Asked, Endpoint},
};
use crate::model::Tag;

/// The reason for which recorded responses cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum FixturesError {
    #[error("cannot read recorded responses from `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot understand `{}`", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
}

/// A line of the manifest. Other keys are for people.
#[derive(Debug, Deserialize)]
struct Entry {
    file: String,
    kind: String,
    http_status: Option<u16>,
    headers: Option<HashMap<String, String>>,
    tag: Option<String>,
}

/// A recorded response.
#[derive(Clone, Debug)]
struct Recording {
    status: u16,
    content_type: &'static str,
    cache_control: CacheControl,
    body: Vec<u8>,
    document: Value,
}

impl Recording {
    fn answer(&self) -> Answer {
        Answer::new(self.status, self.content_type, self.cache_control, self.body.clone())
    }
}

#[derive(Debug, Default)]
struct Pages {
    pages: Vec<Recording>,
    open: usize,
}

impl Pages {
    fn open_page(&self) -> &Recording {
        &self.pages[self.open]
    }
}

type Shelf = BTreeMap<Tag, Pages>;

/// The recorded responses of a folder, by endpoint and tag.
#[derive(Debug, Default)]
pub(super) struct Recordings {
    clans: Shelf,
    players: Shelf,
    wars: Shelf,
    groups: Shelf,
    league_wars: Shelf,
    war_logs: Shelf,
    raids: Shelf,
    refusals: Vec<(String, Recording)>,
    private: BTreeSet<Tag>,
}

impl Recordings {
    pub(super) fn read(folder: &Path) -> Result<Self, FixturesError> {
        let manifest: Vec<Entry> = parse(&folder.join("manifest.json"))?.1;
        let mut by_kind: HashMap<String, Vec<(Entry, Recording)>> = HashMap::new();
        for entry in manifest {
            let (body, document) = parse(&folder.join(&entry.file))?;
            let recording = recording(&entry, body, document);
            by_kind.entry(entry.kind.clone()).or_default().push((entry, recording));
        }
        let mut take = |kind: &str| by_kind.remove(kind).unwrap_or_default();
        let mut recordings = Self::default();
        for (entry, recording) in take("error") {
            recordings.refusals.push((entry.file, recording));
        }
        // The order matters: wars need the clans, and league wars need the groups.
        recordings.add_clans_and_players(take("clan"), take("player"));
        recordings.add_groups(take("leaguegroup"));
        recordings.add_wars(take("currentwar"));
        recordings.add_league_wars(take("cwlwar"));
        recordings.add_logs(take("warlog"), take("raidseasons"));
        Ok(recordings)
    }

    fn add_clans_and_players(&mut self, clans: Vec<(Entry, Recording)>, players: Vec<(Entry, Recording)>) {
        for (entry, recording) in clans {
            let Some(tag) = own_tag(&entry, &recording) else { continue };
            // The war of such a clan is refused.
            if recording.document["isWarLogPublic"] == false {
                self.private.insert(tag.clone());
            }
            put(&mut self.clans, tag, recording);
        }
        for (entry, recording) in players {
            if let Some(tag) = own_tag(&entry, &recording) {
                put(&mut self.players, tag, recording);
            }
        }
    }

    /// Adds each league group under every clan in it, since each of them requests the same group.
    fn add_groups(&mut self, groups: Vec<(Entry, Recording)>) {
        for (_, recording) in groups {
            for clan in list(&recording.document["clans"]).filter_map(tag_of) {
                put(&mut self.groups, clan, recording.clone());
            }
        }
    }

    fn add_wars(&mut self, wars: Vec<(Entry, Recording)>) {
        let mut peace = Vec::new();
        for (_, recording) in wars {
            match tag_of(&recording.document["clan"]) {
                Some(clan) => put(&mut self.wars, clan, recording),
                None => peace.push(recording),
            }
        }
        // A clan of which nothing else is known is at peace, or its war log is private.
        let known: BTreeSet<Tag> = self.clans.keys().chain(self.groups.keys()).cloned().collect();
        let at_peace = known.into_iter().filter(|clan| !self.private.contains(clan)).collect::<Vec<_>>();
        let at_peace = at_peace.into_iter().filter(|clan| !self.wars.contains_key(clan)).collect::<Vec<_>>();
        for (clan, recording) in at_peace.into_iter().zip(peace.iter().cycle()) {
            put(&mut self.wars, clan, recording.clone());
        }
    }

    fn add_league_wars(&mut self, wars: Vec<(Entry, Recording)>) {
        // Recordings of the same two clans are pages of one war.
        let mut given: BTreeMap<[Tag; 2], Tag> = BTreeMap::new();
        let mut random = names::die(0, 71);
        for (_, recording) in wars {
            let side = |side: &str| tag_of(&recording.document[side]);
            let (Some(clan), Some(opponent)) = (side("clan"), side("opponent")) else { continue };
            let pair = [clan, opponent];
            let tag = given.get(&pair).cloned();
            let tag = tag.or_else(|| self.free_war_tag(&pair)).unwrap_or_else(|| names::tag(&mut random));
            given.insert(pair, tag.clone());
            put(&mut self.league_wars, tag, recording);
        }
    }

    /// The first war tag without a recording, in a group that has both clans.
    fn free_war_tag(&self, pair: &[Tag; 2]) -> Option<Tag> {
        let group = &self.groups.get(&pair[0])?.open_page().document;
        let theirs = &self.groups.get(&pair[1])?.open_page().document;
        let tags = list(&group["rounds"]).flat_map(|round| list(&round["warTags"])).filter_map(Value::as_str);
        let mut tags = tags.filter_map(|tag| Tag::normalise(tag).ok());
        // Only a group of both clans can contain their war.
        tags.find(|tag| !self.league_wars.contains_key(tag)).filter(|_| group == theirs)
    }

    fn add_logs(&mut self, war_logs: Vec<(Entry, Recording)>, raids: Vec<(Entry, Recording)>) {
        for (_, recording) in war_logs {
            if let Some(clan) = tag_of(&recording.document["items"][0]["clan"]) {
                put(&mut self.war_logs, clan, recording);
            }
        }
        for (_, recording) in raids {
            // A season does not name its clan. The clan with most of its people is the likeliest.
            let raiders: BTreeSet<Tag> = list(&recording.document["items"][0]["members"]).filter_map(tag_of).collect();
            let in_common = |pages: &Pages| {
                let members = list(&pages.open_page().document["memberList"]).filter_map(tag_of);
                members.filter(|member| raiders.contains(member)).count()
            };
            if let Some((clan, _)) = self.clans.iter().max_by_key(|(_, pages)| in_common(pages)) {
                put(&mut self.raids, clan.clone(), recording);
            }
        }
    }

    pub(super) fn answer(&self, asked: &Asked) -> Answer {
        let documents = match asked.endpoint {
            Endpoint::Clan => &self.clans,
            Endpoint::Player => &self.players,
            Endpoint::CurrentWar => &self.wars,
            Endpoint::LeagueGroup => &self.groups,
            Endpoint::LeagueWar => &self.league_wars,
            Endpoint::WarLog => &self.war_logs,
            Endpoint::RaidSeasons => &self.raids,
            Endpoint::Unknown => return Answer::not_found(asked),
        };
        if let Some(pages) = asked.tag.as_ref().and_then(|tag| documents.get(tag)) {
            return pages.open_page().answer();
        }
        let private = asked.tag.as_ref().is_some_and(|tag| self.private.contains(tag));
        let recorded = match asked.endpoint {
            Endpoint::CurrentWar if private => self.refusal("403-currentwar"),
            Endpoint::WarLog if private => self.refusal("403-warlog"),
            Endpoint::Player => self.refusal("404-player"),
            Endpoint::LeagueGroup => self.refusal("404-leaguegroup"),
            _ => None,
        };
        recorded.map_or_else(|| Answer::not_found(asked), Recording::answer)
    }

    fn refusal(&self, name: &str) -> Option<&Recording> {
        self.refusals.iter().find(|(file, _)| file.contains(name)).map(|(_, recording)| recording)
    }

    /// Opens the next recording of every path that has one. Returns true when there was any.
    pub(super) fn turn_page(&mut self) -> bool {
        let shelves = [
            &mut self.clans,
            &mut self.players,
            &mut self.wars,
            &mut self.groups,
            &mut self.league_wars,
            &mut self.war_logs,
            &mut self.raids,
        ];
        let mut turned = false;
        for pages in shelves.into_iter().flat_map(|shelf| shelf.values_mut()) {
            if pages.open + 1 < pages.pages.len() {
                pages.open += 1;
                turned = true;
            }
        }
        turned
    }

    pub(super) fn census(&self) -> Census {
        let tags = |shelf: &Shelf| shelf.keys().cloned().collect::<Vec<Tag>>();
        let in_state = |state: &str| {
            let wars = self.wars.iter().filter(|(_, pages)| pages.open_page().document["state"] == state);
            wars.map(|(clan, _)| clan.clone()).collect()
        };
        let clanless = self.players.iter().filter(|(_, pages)| pages.open_page().document["clan"]["tag"].is_null());
        Census {
            clans: tags(&self.clans),
            players: tags(&self.players),
            clanless_players: clanless.map(|(player, _)| player.clone()).collect(),
            in_war: in_state("inWar"),
            preparation: in_state("preparation"),
            war_ended: in_state("warEnded"),
            not_in_war: in_state("notInWar"),
            private_war_log: self.private.iter().filter(|clan| !self.wars.contains_key(*clan)).cloned().collect(),
            in_league: tags(&self.groups),
            league_wars: tags(&self.league_wars),
            unknown: Some(self.unknown()),
        }
    }

    /// A tag without a recording.
    fn unknown(&self) -> Tag {
        let mut random = names::die(0, 72);
        loop {
            let tag = names::tag(&mut random);
            if ![&self.clans, &self.players, &self.wars, &self.groups].iter().any(|shelf| shelf.contains_key(&tag)) {
                return tag;
            }
        }
    }
}

fn put(shelf: &mut Shelf, tag: Tag, recording: Recording) {
    shelf.entry(tag).or_default().pages.push(recording);
}

fn parse<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<(Vec<u8>, T), FixturesError> {
    let body = fs::read(path).map_err(|source| FixturesError::Read { path: path.to_owned(), source })?;
    let document =
        serde_json::from_slice(&body).map_err(|source| FixturesError::Parse { path: path.to_owned(), source })?;
    Ok((body, document))
}

fn recording(entry: &Entry, body: Vec<u8>, document: Value) -> Recording {
    let status = entry.http_status.unwrap_or(200);
    let recorded = |name: &str| entry.headers.as_ref().and_then(|headers| headers.get(name));
    let content_type = match recorded("content-type") {
        // Errors come without a charset.
        Some(value) if value == JSON => JSON,
        None if status != 200 => JSON,
        _ => JSON_UTF8,
    };
    let cache_control = match recorded("cache-control") {
        Some(value) => cache_control(value),
        None if status == 200 => CacheControl::MaxAge(Duration::from_secs(usual_age(&entry.kind))),
        None => CacheControl::None,
    };
    Recording { status, content_type, cache_control, body, document }
}

/// For recordings without headers.
fn usual_age(kind: &str) -> u64 {
    let endpoint = match kind {
        "player" => Endpoint::Player,
        "leaguegroup" | "cwlwar" => Endpoint::LeagueGroup,
        _ => Endpoint::Clan,
    };
    endpoint.max_age_seconds()
}

fn cache_control(header: &str) -> CacheControl {
    let digits: String = header.chars().filter(char::is_ascii_digit).collect();
    let age = Duration::from_secs(digits.parse().unwrap_or(0));
    if header.contains("public") { CacheControl::Public(age) } else { CacheControl::MaxAge(age) }
}

fn own_tag(entry: &Entry, recording: &Recording) -> Option<Tag> {
    let named = entry.tag.as_ref().and_then(|tag| Tag::normalise(tag).ok());
    named.or_else(|| tag_of(&recording.document))
}

fn tag_of(value: &Value) -> Option<Tag> {
    Tag::normalise(value["tag"].as_str()?).ok()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
