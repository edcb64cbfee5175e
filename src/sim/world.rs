//! The generated world.

use super::{
    Census,
    answer::Answer,
    request::{Asked, Endpoint},
    server,
};
use crate::{clock::Timestamp, model::Tag};

#[derive(Debug)]
pub(super) struct World {
    clans: Vec<Tag>,
    players: Vec<Tag>,
}

impl World {
    pub(super) fn generate(seed: u64, clans: usize, _evolve: f64, _now: Timestamp) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut tag = |length| {
            let text: String =
                (0..length).map(|_| char::from(*random.choice(b"2890PYLQGRJCUV").unwrap_or(&b'2'))).collect();
            Tag::normalise(&text).expect("made of the tag alphabet")
        };
        Self { clans: (0..clans).map(|_| tag(8)).collect(), players: (0..clans * 25).map(|_| tag(9)).collect() }
    }

    pub(super) fn advance_to(&mut self, _now: Timestamp) {}

    pub(super) fn census(&self) -> Census {
        Census {
            clans: self.clans.clone(),
            players: self.players.clone(),
            not_in_war: self.clans.clone(),
            unknown: Tag::normalise("2QQ2QQ2QQ2").ok(),
            ..Census::default()
        }
    }

    pub(super) fn answer(&self, asked: &Asked) -> Answer {
        let tag = asked.tag.clone().unwrap_or_default();
        let known = |tags: &[Tag]| tags.iter().any(|known| known.as_str() == tag);
        let body = match asked.endpoint {
            Endpoint::Clan if known(&self.clans) => format!(
                r##"{{"tag":"#{tag}","name":"Clan {tag}","clanLevel":1,"isWarLogPublic":true,"members":0,"memberList":[]}}"##
            ),
            Endpoint::Player if known(&self.players) => {
                format!(r##"{{"tag":"#{tag}","name":"Player {tag}","townHallLevel":9,"expLevel":80,"trophies":900}}"##)
            }
            Endpoint::CurrentWar if known(&self.clans) => r#"{"state":"notInWar"}"#.to_owned(),
            _ => return server::not_found(asked),
        };
        Answer::found(body.into_bytes(), asked.endpoint.max_age_seconds())
    }
}
