//! The war of a clan: its current war, and when that says nothing, its league war.
//!
//! `currentwar` knows nothing of league wars: during a league it says `notInWar`, or `warEnded` of an older war. The
//! league path costs a call for the group and up to eight to find our war in it, so it is asked only then, what was
//! found is remembered while its round lasts, and that there was nothing is remembered too.
//!
//! A round of a league is looked at once more after its end, by its remembered tag, before the next round is searched
//! for: the two follow each other without a gap, and the last attacks of the first would never be stored.
//!
//! A clan that made its war log private in the middle of a war is seen from the other side: the opponent is remembered,
//! and its `currentwar` shows the same war. That is one call a fetch, and given up for good when it shows no such war.
//!
//! An answer in a state that is not known says nothing of the war that is stored: it stays, and the league is looked for.
//!
//! When the league path fails, what is stored depends on what is known. Nobody could say whether there is a league (the
//! group failed): the plain answer of `currentwar` is stored. There is a league war and it could not be read: the fetch
//! failed, since `notInWar` would take a known war out of the readers' sight.

use std::time::Duration;

use time::{Date, Month, OffsetDateTime, UtcOffset};

use super::{
    calls::{Caller, Came, Times},
    verdict::{Classified, Endpoint, Obstacle, Verdict},
};
use crate::{
    clock::Timestamp,
    model::{Answered, Document, KnownWar, ObjectId, Tag, WarDocument, WarMemory},
};

/// How long "in no league" is believed on the days when leagues begin and run.
const NONE_IN_SEASON: Duration = Duration::from_secs(10 * 60);

/// The same on all other days.
const NONE_OFF_SEASON: Duration = Duration::from_secs(24 * 60 * 60);

/// The last day of a month on which a league may run, in UTC.
const LAST_LEAGUE_DAY: u8 = 12;

/// How long a round that is over is looked at without asking whether another is drawn.
const ENDED_ROUND: Duration = Duration::from_secs(10 * 60);

/// How long after its end a round is still waited for to be seen to its end: a copy of it may be ten minutes old.
const LAST_LOOK: Duration = Duration::from_secs(15 * 60);

/// No round lasts longer, whatever an answer says.
const LONGEST_ROUND: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// Fetches a clan's war.
pub(super) async fn fetch_war(caller: &mut Caller<'_>, object: &ObjectId, remembered: Option<&WarMemory>) -> Verdict {
    let mut memory = WarMemory { seeks_next_round: false, ..remembered.cloned().unwrap_or_default() };
    let current = caller.call(&Endpoint::CurrentWar(&object.tag)).await;
    let plain = match current.came {
        Came::Well(Classified::War(war)) => Plain::War(war),
        Came::Well(Classified::PrivateWarLog) => Plain::Private,
        Came::Well(Classified::UnknownState(state)) => Plain::Unknown(state),
        _ => return current.into_verdict(object),
    };
    if matches!(plain, Plain::Private) {
        match see_from_the_other_side(caller, &object.tag, &memory).await {
            Ok(OtherSide::Seen(war, times)) => {
                let memory = knowing(&war, times, memory);
                return times.fetched(object, answered(*war), Some(memory));
            }
            Ok(OtherSide::Hidden) => memory.war = None,
            Ok(OtherSide::Unknown) => {}
            Err(obstacle) => return Verdict::Prevented(obstacle),
        }
    }
    let before = memory.war.clone();
    let keep = |plain: Plain, memory: WarMemory| match plain {
        Plain::War(war) => {
            let memory = knowing(&war, current.times, WarMemory { war: before.clone(), ..memory });
            current.times.fetched(object, answered(war), Some(memory))
        }
        Plain::Private => current.times.fetched(object, Answered::PrivateWarLog, Some(memory)),
        Plain::Unknown(state) => {
            let memory = WarMemory { war: before.clone(), ..memory };
            current.times.fetched(object, Answered::UnknownState(state), Some(memory))
        }
    };
    let busy = matches!(&plain, Plain::War(war) if !matches!(war.state.as_str(), "notInWar" | "warEnded"));
    if busy || says_none(&memory, caller.now()) {
        return keep(plain, memory);
    }
    match find(caller, &object.tag, &memory).await {
        Ok(league) if is_newer(&league.war, &plain, before.as_deref()) => {
            let memory = knowing(&league.war, league.times, WarMemory { war: before, ..league.memory });
            league.times.fetched(object, answered(league.war), Some(memory))
        }
        Ok(league) => keep(plain, league.memory),
        Err(Miss::None(none)) => keep(plain, WarMemory { war: memory.war, ..none }),
        Err(Miss::Unknown) => keep(plain, memory),
        // There is a war, and what became of it is not known.
        Err(Miss::Unclear(state)) => keep(Plain::Unknown(state), memory),
        Err(Miss::Failed(verdict)) => *verdict,
    }
}

/// What `currentwar` says.
enum Plain {
    War(WarDocument),
    Private,
    /// A state that is not known: whatever war is stored stays, and the league is looked for.
    Unknown(String),
}

fn answered(war: WarDocument) -> Answered {
    Answered::Document(Document::War(war))
}

/// The memory with this war as the one that is stored. From one that is not whole nothing follows: what was known of the war
/// before stays, as far as it is not told anew.
fn knowing(war: &WarDocument, times: Times, memory: WarMemory) -> WarMemory {
    let mut now = known(war, times.copied_at()).map(Box::new);
    if let (Some(now), Some(before)) = (&mut now, &memory.war)
        && now.opponent.is_none()
        && now.starts < before.ends
        && before.starts < now.ends
    {
        now.opponent.clone_from(&before.opponent);
    }
    let now = if war.is_whole { now } else { now.or(memory.war) };
    WarMemory { war: now, ..memory }
}

/// A war with times; `None` of a clan that is in none.
fn known(war: &WarDocument, copied_at: Timestamp) -> Option<KnownWar> {
    let (starts, ends) = (war.starts?, war.ends?);
    let known = KnownWar {
        is_final: war.is_whole && war.state == KnownWar::ENDED && copied_at >= ends + KnownWar::MAX_ATTACK_DURATION,
        state: war.state.clone(),
        starts,
        ends,
        opponent: war.opponent.clone(),
    };
    (known.is_on() || known.state == KnownWar::ENDED).then_some(known)
}

/// What the other clan's war log shows.
enum OtherSide {
    Seen(Box<WarDocument>, Times),
    /// Our war is not to be seen there.
    Hidden,
    /// Nobody could say; the next fetch may.
    Unknown,
}

/// One call, when a war of ours is known that may still go on.
async fn see_from_the_other_side(
    caller: &mut Caller<'_>,
    clan: &Tag,
    memory: &WarMemory,
) -> Result<OtherSide, Obstacle> {
    let Some(war) = memory.war.as_ref().filter(|war| !war.is_final && caller.now() < war.ends + LAST_LOOK) else {
        return Ok(OtherSide::Hidden);
    };
    let Some(opponent) = &war.opponent else { return Ok(OtherSide::Hidden) };
    let reply = caller.call(&Endpoint::OtherSide { opponent, clan }).await;
    Ok(match reply.came {
        Came::Well(Classified::War(seen)) if seen.opponent.as_ref() == Some(opponent) => {
            OtherSide::Seen(Box::new(seen), reply.times)
        }
        Came::Well(Classified::UnknownState(_)) => OtherSide::Unknown,
        Came::Well(_) => OtherSide::Hidden,
        Came::Badly(Verdict::Prevented(obstacle)) if !matches!(obstacle, Obstacle::CircuitOpen(_)) => {
            return Err(obstacle);
        }
        // It is another clan's document: what is wrong with it is not our object's failure.
        Came::Badly(_) => OtherSide::Unknown,
    })
}

/// A league war of ours.
struct Found {
    war: WarDocument,
    times: Times,
    memory: WarMemory,
}

/// Why there is no league war to show.
enum Miss {
    /// There is none; the memory says for how long.
    None(WarMemory),
    /// The group could not be read.
    Unknown,
    /// There is one, in a state that is not known.
    Unclear(String),
    /// There is one, and it could not be read.
    Failed(Box<Verdict>),
}

/// Of two wars that are over, the one that ended last; a league war that is not over comes before both.
fn is_newer(league: &WarDocument, plain: &Plain, before: Option<&KnownWar>) -> bool {
    let is_over = league.state == KnownWar::ENDED;
    match plain {
        Plain::War(plain) if plain.state == KnownWar::ENDED && is_over => league.ends > plain.ends,
        // `currentwar` may speak of the war that is known, and that one goes on.
        Plain::Unknown(_) if is_over => before.is_none_or(|before| league.ends.is_some_and(|ends| ends >= before.ends)),
        _ => true,
    }
}

async fn find(caller: &mut Caller<'_>, clan: &Tag, memory: &WarMemory) -> Result<Found, Miss> {
    if let Some(tag) = remembered_war(memory, caller.now())
        && let Some(Seen::Ours(war, times)) = look(caller, &tag, clan).await?
    {
        return Ok(remembered(war, times, memory.clone()));
    }
    let group = match caller.call(&Endpoint::LeagueGroup(clan)).await.came {
        Came::Well(Classified::Group(group)) => group,
        Came::Well(_) => return Err(none(caller.now(), "")),
        Came::Badly(verdict) if is_the_end_of_calls(&verdict) => return Err(Miss::Failed(Box::new(verdict))),
        Came::Badly(_) => return Err(Miss::Unknown),
    };
    match group.state.as_str() {
        "ended" => return Err(none(caller.now(), &group.season)),
        "notInWar" => return Err(none(caller.now(), "")),
        _ => {}
    }
    match search(caller, &group.rounds, clan).await? {
        Some((tag, war, times)) => {
            let memory = remember(&tag, &war, caller.now());
            Ok(Found { war, times, memory })
        }
        // No round is drawn yet.
        None => Err(Miss::None(WarMemory { none_until: Some(caller.now() + NONE_IN_SEASON), ..Default::default() })),
    }
}

/// The war of the remembered round. When this is its last look, the next fetch searches for the next round.
fn remembered(war: WarDocument, times: Times, memory: WarMemory) -> Found {
    let was_final = memory.war.as_ref().is_some_and(|known| known.is_final);
    let is_final = known(&war, times.copied_at()).is_some_and(|known| known.is_final);
    if !is_final || was_final {
        return Found { war, times, memory };
    }
    let memory = WarMemory { war_tag: None, war_tag_until: None, seeks_next_round: true, ..memory };
    Found { war, times: times.not_worth_waiting_for(), memory }
}

/// Our war of the newest drawn round that is fought, else the one prepared, else the one that ended last.
///
/// While a round is fought the next one is drawn already and in preparation. All wars of a round go together, so the
/// first look into the newest round tells whether the round before is the one to look for.
async fn search(
    caller: &mut Caller<'_>,
    rounds: &[Vec<Tag>],
    clan: &Tag,
) -> Result<Option<(Tag, WarDocument, Times)>, Miss> {
    let Some((newest, older)) = rounds.split_last() else { return Ok(None) };
    let mut before = older.last();
    // Most wars of a round are other clans': one that cannot be read matters only when ours is not among the rest.
    let mut unread = Unread::default();
    for tag in newest {
        let Some(seen) = unread.or_seen(look(caller, tag, clan).await)? else { continue };
        if seen.state() == "preparation"
            && let Some(round) = before.take()
            && let Some(fought) = our_war(caller, round, clan).await?
            && fought.1.state != "warEnded"
        {
            return Ok(Some(fought));
        }
        if let Seen::Ours(war, times) = seen {
            return Ok(Some((tag.clone(), war, times)));
        }
    }
    unread.or_none()
}

/// The first war of a round that could not be read.
#[derive(Default)]
struct Unread(Option<Miss>);

impl Unread {
    /// Sets a war aside that cannot be read, unless nothing more can be.
    fn or_seen(&mut self, seen: Result<Option<Seen>, Miss>) -> Result<Option<Seen>, Miss> {
        match seen {
            Err(Miss::Failed(verdict)) if is_the_end_of_calls(&verdict) => Err(Miss::Failed(verdict)),
            Err(miss @ (Miss::Failed(_) | Miss::Unclear(_))) => {
                self.0.get_or_insert(miss);
                Ok(None)
            }
            seen => seen,
        }
    }

    /// Our war was not among those that could be read.
    fn or_none<T>(self) -> Result<Option<T>, Miss> {
        self.0.map_or(Ok(None), Err)
    }
}

async fn our_war(
    caller: &mut Caller<'_>,
    round: &[Tag],
    clan: &Tag,
) -> Result<Option<(Tag, WarDocument, Times)>, Miss> {
    let mut unread = Unread::default();
    for tag in round {
        if let Some(Seen::Ours(war, times)) = unread.or_seen(look(caller, tag, clan).await)? {
            return Ok(Some((tag.clone(), war, times)));
        }
    }
    unread.or_none()
}

/// A war of a round.
enum Seen {
    Ours(WarDocument, Times),
    Others { state: String },
}

impl Seen {
    fn state(&self) -> &str {
        match self {
            Self::Ours(war, _) => &war.state,
            Self::Others { state } => state,
        }
    }
}

/// `None` when there is no such war.
async fn look(caller: &mut Caller<'_>, war: &Tag, clan: &Tag) -> Result<Option<Seen>, Miss> {
    let reply = caller.call(&Endpoint::LeagueWar { war, clan }).await;
    match reply.came {
        Came::Well(Classified::War(war)) => Ok(Some(Seen::Ours(war, reply.times))),
        Came::Well(Classified::OtherWar { state }) => Ok(Some(Seen::Others { state })),
        // Of two other clans that are named it would be known.
        Came::Well(Classified::UnknownState(state)) => Err(Miss::Unclear(state)),
        Came::Well(_) | Came::Badly(Verdict::DeadLetter { .. }) => Ok(None),
        Came::Badly(verdict) => Err(Miss::Failed(Box::new(verdict))),
    }
}

/// Whether no further call could be made either.
const fn is_the_end_of_calls(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Prevented(Obstacle::NoUsableKey | Obstacle::DayUsedUp | Obstacle::Deadline))
}

fn remembered_war(memory: &WarMemory, now: Timestamp) -> Option<Tag> {
    let until = memory.war_tag_until?;
    let tag = memory.war_tag.as_deref()?.parse().ok()?;
    (now < until && until <= now + LONGEST_ROUND).then_some(tag)
}

fn remember(tag: &Tag, war: &WarDocument, now: Timestamp) -> WarMemory {
    let until = match war.ends {
        Some(ends) if war.state != "warEnded" => (ends + LAST_LOOK).clamp(now, now + LONGEST_ROUND),
        _ => now + ENDED_ROUND,
    };
    WarMemory { war_tag: Some(tag.as_str().to_owned()), war_tag_until: Some(until), ..WarMemory::default() }
}

/// A time further away than any that is ever noted was noted by a wrong clock.
fn says_none(memory: &WarMemory, now: Timestamp) -> bool {
    memory.none_until.is_some_and(|until| now < until && until <= now + NONE_OFF_SEASON)
}

/// In no league. `ended_season` names the season of a league that is over; there is one a month.
fn none(now: Timestamp, ended_season: &str) -> Miss {
    Miss::None(WarMemory { none_until: Some(none_until(now, ended_season)), ..Default::default() })
}

fn none_until(now: Timestamp, ended_season: &str) -> Timestamp {
    let utc = now.to_utc();
    let this_season = format!("{:04}-{:02}", utc.year(), u8::from(utc.month()));
    if utc.day() <= LAST_LEAGUE_DAY && ended_season != this_season {
        return now + NONE_IN_SEASON;
    }
    // Not into the next season.
    (now + NONE_OFF_SEASON).min(next_month(utc))
}

fn next_month(utc: OffsetDateTime) -> Timestamp {
    let year = if utc.month() == Month::December { utc.year() + 1 } else { utc.year() };
    let first = Date::from_calendar_date(year, utc.month().next(), 1).unwrap_or(Date::MAX);
    Timestamp::from_utc(OffsetDateTime::new_in_offset(first, time::Time::MIDNIGHT, UtcOffset::UTC))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn until(now: OffsetDateTime, ended_season: &str) -> String {
        none_until(Timestamp::from_utc(now), ended_season).to_string()
    }

    #[test]
    fn in_no_league_is_believed_ten_minutes_in_season_and_a_day_off_season_but_not_into_the_next() {
        assert_eq!(until(datetime!(2026-03-01 00:00 UTC), ""), "2026-03-01T00:10:00.000Z");
        assert_eq!(until(datetime!(2026-03-12 23:59 UTC), ""), "2026-03-13T00:09:00.000Z");
        assert_eq!(until(datetime!(2026-03-13 00:00 UTC), ""), "2026-03-14T00:00:00.000Z");
        assert_eq!(until(datetime!(2026-12-31 20:00 UTC), ""), "2027-01-01T00:00:00.000Z");
    }

    #[test]
    fn after_this_months_league_has_ended_there_is_none_until_tomorrow() {
        assert_eq!(until(datetime!(2026-03-10 12:00 UTC), "2026-03"), "2026-03-11T12:00:00.000Z");
        assert_eq!(until(datetime!(2026-03-01 12:00 UTC), "2026-02"), "2026-03-01T12:10:00.000Z");
    }
}
