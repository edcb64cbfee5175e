//! Where the documents come from: a generated world or recorded responses.

use super::{Census, answer::Answer, request::Asked, world::World};
use crate::clock::ServerTime;

#[derive(Debug)]
pub(super) enum Source {
    World { world: Box<World>, time: ServerTime },
}

impl Source {
    pub(super) fn answer(&mut self, asked: &Asked) -> Answer {
        match self {
            Self::World { world, time } => {
                world.advance_to(time.now());
                world.answer(asked)
            }
        }
    }

    pub(super) fn census(&mut self) -> Census {
        match self {
            Self::World { world, time } => {
                world.advance_to(time.now());
                world.census()
            }
        }
    }
}
