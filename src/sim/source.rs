//! The source of the documents: a generated world or recorded responses.

use super::{
    Census, SimConfig,
    answer::Answer,
    fixtures::{FixturesError, Recordings},
    request::Asked,
    world::World,
};
use crate::clock::ServerTime;

#[derive(Debug)]
pub(super) enum Source {
    World { world: Box<World>, time: ServerTime },
    Recordings(Box<Recordings>),
}

impl Source {
    pub(super) fn open(config: &SimConfig) -> Result<Self, FixturesError> {
        if let Some(folder) = &config.fixtures {
            return Ok(Self::Recordings(Box::new(Recordings::read(folder)?)));
        }
        let now = config.clock.wall();
        let world = Box::new(World::generate(config.seed, config.clans, config.evolve, now));
        Ok(Self::World { world, time: ServerTime::new(config.clock.clone(), now) })
    }

    pub(super) fn answer(&mut self, asked: &Asked) -> Answer {
        match self {
            Self::World { world, time } => {
                world.advance_to(time.now());
                world.answer(asked)
            }
            Self::Recordings(recordings) => recordings.answer(asked),
        }
    }

    pub(super) fn census(&mut self) -> Census {
        match self {
            Self::World { world, time } => {
                world.advance_to(time.now());
                world.census()
            }
            Self::Recordings(recordings) => recordings.census(),
        }
    }

    pub(super) fn turn_page(&mut self) -> bool {
        match self {
            Self::World { .. } => false,
            Self::Recordings(recordings) => recordings.turn_page(),
        }
    }
}
