//! The war of a clan: its current war, and when that shows nothing, its league war.
//!
//! `currentwar` does not know league wars: during a league it shows `notInWar`, or `warEnded` of an older war. The league
//! path costs one call for the group and up to eight to find our war in it. So it is taken only then. The war that was found
//! is remembered while its round lasts, and so is the fact that there was none.
//!
//! **After a round.** A round is polled once more after its end, by its remembered tag, before the next round is searched
//! for. The two follow each other without a gap, and the last attacks of the first would never be stored.
//!
//! **Private war logs.** A clan that makes its war log private in the middle of a war is seen from the other side: the
//! opponent is remembered, and its `currentwar` shows the same war. That is one call a fetch, and is given up for good when
//! it shows no such war.
//!
//! **Unknown states.** A response in an unknown state says nothing about the stored war: that war stays, and the league is
//! searched.
//!
//! **Failures.** The result depends on what is known when the league path fails. When the group failed, nobody can say
//! whether there is a league, and the plain response of `currentwar` is stored. When there is a league war that could not be
//! read, the fetch fails, since `notInWar` would hide a known war from readers.

use std::time::Duration;

use time::{Date, Month, OffsetDateTime, UtcOffset};

use super::{
    calls::{CallResult, Caller, Times},
    endpoint::Endpoint,
    response::Classified,
    verdict::{Obstacle, Verdict},
};
use crate::{
    clock::Timestamp,
    model::{Answered, Document, KnownWar, ObjectId, Tag, WarDocument, WarMemory},
};

/// "In no league" is believed for this long on the days when leagues begin and run.
const NO_LEAGUE_TTL_IN_SEASON: Duration = Duration::from_secs(10 * 60);

/// "In no league" is believed for this long on all other days.
const NO_LEAGUE_TTL_OFF_SEASON: Duration = Duration::from_secs(24 * 60 * 60);

/// The last day of a month on which a league may run, in UTC.
const LAST_LEAGUE_DAY: u8 = 12;

/// A round that is over is polled for this long without a search for the next one.
const ENDED_ROUND_TTL: Duration = Duration::from_secs(10 * 60);

/// A round is polled for this long after its end, until a copy shows that end: a copy may be ten minutes old.
const FINAL_POLL_WINDOW: Duration = Duration::from_secs(15 * 60);

/// The longest time for which a round is believed to last, whatever a response says.
const MAX_ROUND_LENGTH: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// Fetches a clan's war.
pub(super) async fn fetch_war(caller: &mut Caller<'_>, object: &ObjectId, remembered: Option<&WarMemory>) -> Verdict {
    // This fetch does what the mark asked for, so the mark is cleared.
    let mut memory = WarMemory { seeks_next_round: false, ..remembered.cloned().unwrap_or_default() };
    let current = caller.call(&Endpoint::CurrentWar(&object.tag)).await;
    let plain = match current.result {
        CallResult::Good(Classified::War(war)) => Plain::War(war),
        CallResult::Good(Classified::PrivateWarLog) => Plain::Private,
        CallResult::Good(Classified::UnknownState(state)) => Plain::Unknown(state),
        _ => return current.into_verdict(object),
    };
    if matches!(plain, Plain::Private) {
        match fetch_from_opponent(caller, &object.tag, &memory).await {
            Ok(OtherSide::Seen(war, times)) => {
                let memory = remembering(&war, times, memory);
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
            let memory = remembering(&war, current.times, WarMemory { war: before.clone(), ..memory });
            current.times.fetched(object, answered(war), Some(memory))
        }
        Plain::Private => current.times.fetched(object, Answered::PrivateWarLog, Some(memory)),
        Plain::Unknown(state) => {
            let memory = WarMemory { war: before.clone(), ..memory };
            current.times.fetched(object, Answered::UnknownState(state), Some(memory))
        }
    };
    // A clan that fights an ordinary war is in no league war.
    let busy = matches!(&plain, Plain::War(war) if !matches!(war.state.as_str(), "notInWar" | "warEnded"));
    if busy || says_none(&memory, caller.now()) {
        return keep(plain, memory);
    }
    match find_league_war(caller, &object.tag, &memory).await {
        Ok(league) if is_newer(&league.war, &plain, before.as_deref()) => {
            let memory = remembering(&league.war, league.times, WarMemory { war: before, ..league.memory });
            league.times.fetched(object, answered(league.war), Some(memory))
        }
        Ok(league) => keep(plain, league.memory),
        Err(Miss::None(none)) => keep(plain, WarMemory { war: memory.war, ..none }),
        Err(Miss::Unknown) => keep(plain, memory),
        // There is a war, and its state is not known.
        Err(Miss::Unclear(state)) => keep(Plain::Unknown(state), memory),
        Err(Miss::Failed(verdict)) => *verdict,
    }
}

/// The meaning of a response of `currentwar`.
enum Plain {
    War(WarDocument),
    Private,
    /// An unknown state: the stored war stays, and the league is searched.
    Unknown(String),
}

fn answered(war: WarDocument) -> Answered {
    Answered::Document(Document::War(war))
}

/// The memory with this war as the stored one. An incomplete war does not replace it: what was known before stays, unless the
/// response repeats it.
fn remembering(war: &WarDocument, times: Times, memory: WarMemory) -> WarMemory {
    let mut now = known(war, times.copied_at()).map(Box::new);
    // The same war as before, this time without its opponent: the opponent is still known.
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

/// The known part of a war with times; `None` for a clan that is in none.
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

/// Our war as the opponent's war log shows it.
enum OtherSide {
    Seen(Box<WarDocument>, Times),
    /// The opponent shows no such war.
    Hidden,
    /// The call failed; that of the next fetch may succeed.
    Unknown,
}

/// Requests the opponent's war, when a war of ours is known that may still go on.
async fn fetch_from_opponent(caller: &mut Caller<'_>, clan: &Tag, memory: &WarMemory) -> Result<OtherSide, Obstacle> {
    let Some(war) = memory.war.as_ref().filter(|war| !war.is_final && caller.now() < war.ends + FINAL_POLL_WINDOW)
    else {
        return Ok(OtherSide::Hidden);
    };
    let Some(opponent) = &war.opponent else { return Ok(OtherSide::Hidden) };
    let reply = caller.call(&Endpoint::OtherSide { opponent, clan }).await;
    Ok(match reply.result {
        CallResult::Good(Classified::War(seen)) if seen.opponent.as_ref() == Some(opponent) => {
            OtherSide::Seen(Box::new(seen), reply.times)
        }
        CallResult::Good(Classified::UnknownState(_)) => OtherSide::Unknown,
        CallResult::Good(_) => OtherSide::Hidden,
        CallResult::Failed(Verdict::Prevented(obstacle)) if !matches!(obstacle, Obstacle::CircuitOpen(_)) => {
            return Err(obstacle);
        }
        // A failure of another clan's document is not a failure of our object.
        CallResult::Failed(_) => OtherSide::Unknown,
    })
}

/// A league war of ours.
struct Found {
    war: WarDocument,
    times: Times,
    memory: WarMemory,
}

/// The reason for which there is no league war to show.
enum Miss {
    /// There is none. The memory says for how long that is believed.
    None(WarMemory),
    /// The group could not be read.
    Unknown,
    /// There is one, in an unknown state.
    Unclear(String),
    /// There is one, and it could not be read.
    Failed(Box<Verdict>),
}

/// True when the league war is the one to show: of two wars that are over, the later one counts, and a league war that is
/// not over comes before both.
fn is_newer(league: &WarDocument, plain: &Plain, before: Option<&KnownWar>) -> bool {
    let is_over = league.state == KnownWar::ENDED;
    match plain {
        Plain::War(plain) if plain.state == KnownWar::ENDED && is_over => league.ends > plain.ends,
        // `currentwar` may show the known war, and that war goes on.
        Plain::Unknown(_) if is_over => before.is_none_or(|before| league.ends.is_some_and(|ends| ends >= before.ends)),
        _ => true,
    }
}

async fn find_league_war(caller: &mut Caller<'_>, clan: &Tag, memory: &WarMemory) -> Result<Found, Miss> {
    // Fetching the remembered war takes one call; the search takes up to nine.
    if let Some(tag) = remembered_war_tag(memory, caller.now())
        && let Some(Seen::Ours(war, times)) = fetch_league_war(caller, &tag, clan).await?
    {
        return Ok(remembered(war, times, memory.clone()));
    }
    let group = match caller.call(&Endpoint::LeagueGroup(clan)).await.result {
        CallResult::Good(Classified::Group(group)) => group,
        CallResult::Good(_) => return Err(none(caller.now(), "")),
        CallResult::Failed(verdict) if is_the_end_of_calls(&verdict) => return Err(Miss::Failed(Box::new(verdict))),
        CallResult::Failed(_) => return Err(Miss::Unknown),
    };
    match group.state.as_str() {
        // There is one league a month, so the season shows when the next one may begin.
        "ended" => return Err(none(caller.now(), &group.season)),
        "notInWar" => return Err(none(caller.now(), "")),
        _ => {}
    }
    match search(caller, &group.rounds, clan).await? {
        Some((tag, war, times)) => {
            let memory = remember(&tag, &war, caller.now());
            Ok(Found { war, times, memory })
        }
        // No round is drawn yet: one will be soon.
        None => Err(Miss::None(WarMemory {
            none_until: Some(caller.now() + NO_LEAGUE_TTL_IN_SEASON),
            ..Default::default()
        })),
    }
}

/// The war of the remembered round. When its end was seen, the next fetch searches for the next round.
fn remembered(war: WarDocument, times: Times, memory: WarMemory) -> Found {
    let was_final = memory.war.as_ref().is_some_and(|known| known.is_final);
    let is_final = known(&war, times.copied_at()).is_some_and(|known| known.is_final);
    // The war goes on, or an earlier poll saw its end already.
    if !is_final || was_final {
        return Found { war, times, memory };
    }
    // The war tag is forgotten, so that the next fetch searches for the next round.
    let memory = WarMemory { war_tag: None, war_tag_until: None, seeks_next_round: true, ..memory };
    Found { war, times: times.not_worth_waiting_for(), memory }
}

/// Searches the group for our war: that of the newest round that is fought, else the one in preparation, else the one that
/// ended last.
///
/// While a round is fought, the next one is drawn already and in preparation. All wars of a round run at the same time, so the
/// first war of the newest round shows whether the round before is the one to search.
async fn search(
    caller: &mut Caller<'_>,
    rounds: &[Vec<Tag>],
    clan: &Tag,
) -> Result<Option<(Tag, WarDocument, Times)>, Miss> {
    let Some((newest, older)) = rounds.split_last() else { return Ok(None) };
    let mut before = older.last();
    // Most wars of a round are those of other clans. An unreadable one matters only when ours is not among the others.
    let mut unread = Unread::default();
    for tag in newest {
        let Some(seen) = unread.or_seen(fetch_league_war(caller, tag, clan).await)? else { continue };
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
    /// Sets an unreadable war aside, unless no further call can be made.
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

    /// Our war was not among the readable ones: it may be the first unreadable one.
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
        if let Some(Seen::Ours(war, times)) = unread.or_seen(fetch_league_war(caller, tag, clan).await)? {
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

/// Requests one war of a round. `None` when there is no such war.
async fn fetch_league_war(caller: &mut Caller<'_>, war: &Tag, clan: &Tag) -> Result<Option<Seen>, Miss> {
    let reply = caller.call(&Endpoint::LeagueWar { war, clan }).await;
    match reply.result {
        CallResult::Good(Classified::War(war)) => Ok(Some(Seen::Ours(war, reply.times))),
        CallResult::Good(Classified::OtherWar { state }) => Ok(Some(Seen::Others { state })),
        // A war of two other clans would be `OtherWar`, so this may be ours in a state that we do not know.
        CallResult::Good(Classified::UnknownState(state)) => Err(Miss::Unclear(state)),
        CallResult::Good(_) | CallResult::Failed(Verdict::DeadLetter { .. }) => Ok(None),
        CallResult::Failed(verdict) => Err(Miss::Failed(Box::new(verdict))),
    }
}

/// True when no further call can be made either.
const fn is_the_end_of_calls(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Prevented(Obstacle::NoUsableKey | Obstacle::DailyQuotaExhausted | Obstacle::Deadline))
}

fn remembered_war_tag(memory: &WarMemory, now: Timestamp) -> Option<Tag> {
    let until = memory.war_tag_until?;
    let tag = memory.war_tag.as_deref()?.parse().ok()?;
    (now < until && until <= now + MAX_ROUND_LENGTH).then_some(tag)
}

fn remember(tag: &Tag, war: &WarDocument, now: Timestamp) -> WarMemory {
    let until = match war.ends {
        Some(ends) if war.state != "warEnded" => (ends + FINAL_POLL_WINDOW).clamp(now, now + MAX_ROUND_LENGTH),
        _ => now + ENDED_ROUND_TTL,
    };
    WarMemory { war_tag: Some(tag.as_str().to_owned()), war_tag_until: Some(until), ..WarMemory::default() }
}

/// True when "in no league" is still believed. A time further away than any that is written was written by a wrong clock.
fn says_none(memory: &WarMemory, now: Timestamp) -> bool {
    memory.none_until.is_some_and(|until| now < until && until <= now + NO_LEAGUE_TTL_OFF_SEASON)
}

/// The clan is in no league. `ended_season` names the season of a league that is over; there is one a month.
fn none(now: Timestamp, ended_season: &str) -> Miss {
    Miss::None(WarMemory { none_until: Some(none_until(now, ended_season)), ..Default::default() })
}

fn none_until(now: Timestamp, ended_season: &str) -> Timestamp {
    let utc = now.to_utc();
    let this_season = format!("{:04}-{:02}", utc.year(), u8::from(utc.month()));
    if utc.day() <= LAST_LEAGUE_DAY && ended_season != this_season {
        return now + NO_LEAGUE_TTL_IN_SEASON;
    }
    // "In no league" must be checked again when the next season begins.
    (now + NO_LEAGUE_TTL_OFF_SEASON).min(next_month(utc))
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

    /// "In no league" is believed for ten minutes in season and for a day off season, but not into the next season.
    #[test]
    fn no_league_is_believed_until_next_season() {
        assert_eq!(until(datetime!(2026-03-01 00:00 UTC), ""), "2026-03-01T00:10:00.000Z");
        assert_eq!(until(datetime!(2026-03-12 23:59 UTC), ""), "2026-03-13T00:09:00.000Z");
        assert_eq!(until(datetime!(2026-03-13 00:00 UTC), ""), "2026-03-14T00:00:00.000Z");
        assert_eq!(until(datetime!(2026-12-31 20:00 UTC), ""), "2027-01-01T00:00:00.000Z");
    }

    #[test]
    fn ended_league_means_none_until_tomorrow() {
        assert_eq!(until(datetime!(2026-03-10 12:00 UTC), "2026-03"), "2026-03-11T12:00:00.000Z");
        assert_eq!(until(datetime!(2026-03-01 12:00 UTC), "2026-02"), "2026-03-01T12:10:00.000Z");
    }
}
