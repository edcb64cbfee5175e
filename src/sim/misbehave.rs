//! The rules by which the simulator misbehaves: the calls that a rule catches, and the damage it does.
//!
//! Values and bookkeeping only; `server.rs` carries the misbehaviour out.

use std::{collections::VecDeque, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use super::request::{Asked, Endpoint};
use crate::{model::Tag, signal::Signal};

/// The misbehaviour of a rule.
///
/// `Slow` and `HoldUntilReleased` only delay: the next matching rule follows, or else the true response. Every other one is
/// the response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Misbehaviour {
    /// 429 `requestThrottled`; `retry_after` in seconds.
    Throttled {
        #[serde(default)]
        retry_after: Option<u32>,
    },
    /// 403 `accessDenied.invalidIp`: the token is bound to another address.
    InvalidIp,
    /// 403 with the message `Invalid authorization`: the token is bad or revoked.
    InvalidAuthorization,
    /// 403 with an HTML page: the address is banned.
    AddressBan,
    /// 403 with a reason that no client knows.
    OtherForbidden,
    /// 403 `accessDenied` without a message.
    PrivateWarLog,
    /// 404 `notFound`.
    NotFound,
    /// 400 `badRequest`.
    BadRequest,
    /// 500 with an HTML page.
    #[serde(rename = "status_500")]
    Status500,
    /// 500 with the JSON reason `unknownException`.
    UnknownException,
    /// 502 with an HTML page.
    #[serde(rename = "status_502")]
    Status502,
    /// 504 with an HTML page.
    #[serde(rename = "status_504")]
    Status504,
    /// 503 `inMaintenance`.
    Maintenance,
    /// 503 with an HTML page.
    MaintenanceHtml,
    /// Waits this long before the response; `{"slow_ms": 250}` in JSON.
    #[serde(rename = "slow_ms", with = "as_millis")]
    Slow(Duration),
    /// Responds only after [`super::Simulator::release`].
    HoldUntilReleased,
    /// Closes the connection without a response.
    CutBeforeHeaders,
    /// Sends the headers and half of the promised body, then closes the connection.
    CutMidBody,
    /// Sends the headers and half of the promised body, then nothing more; the connection stays open.
    StallMidBody,
    /// A complete HTTP response whose JSON stops half way.
    Truncated,
    /// The true response without its mandatory keys.
    WrongJson,
    /// 200 and `application/json`, but a page of HTML.
    NotJson,
    /// The true response with another tag in place of the requested one.
    WrongTag,
    /// 200 with a JSON body of this many bytes.
    HugeBody(u64),
    /// 200 with JSON nested 100,000 deep.
    DeepJson,
    /// The true response, called `text/html`.
    LyingContentType,
    /// The response of some other server.
    Foreign { status: u16, body: String },
}

mod as_millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// The calls that a rule catches: those that match every given part. The default catches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Matches {
    /// A part of path and query as sent, such as `/players/` or `leaguegroup`.
    pub path: Option<String>,
    pub endpoint: Option<Endpoint>,
    /// In any spelling.
    pub tag: Option<String>,
    pub token: Option<String>,
}

impl Matches {
    fn catches(&self, asked: &Asked, token: &str) -> bool {
        self.path.as_ref().is_none_or(|part| asked.path.contains(part.as_str()))
            && self.endpoint.is_none_or(|endpoint| endpoint == asked.endpoint)
            && self.tag.as_ref().is_none_or(|tag| Tag::normalise(tag).ok() == asked.tag && asked.tag.is_some())
            && self.token.as_ref().is_none_or(|wanted| wanted == token)
    }
}

/// A rule. As JSON: `{"matches": {"tag": "#2PP"}, "what": "status_502", "times": 2, "after": 0}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    #[serde(default)]
    pub matches: Matches,
    pub what: Misbehaviour,
    /// The calls after which the rule is used up; `None` = never.
    #[serde(default)]
    pub times: Option<u32>,
    /// The matching calls that are spared first.
    #[serde(default)]
    pub after: u32,
    /// Only every n-th matching call is caught; `None` = each.
    #[serde(default)]
    pub every: Option<u32>,
    /// Each matching call is caught with this probability, from 0 to 1; `None` = for certain.
    #[serde(default)]
    pub chance: Option<f64>,
}

impl Rule {
    /// Catches every call, for ever; the methods below narrow it.
    pub fn new(what: Misbehaviour) -> Self {
        Self { matches: Matches::default(), what, times: None, after: 0, every: None, chance: None }
    }

    #[must_use]
    pub fn on_path(mut self, part: impl Into<String>) -> Self {
        self.matches.path = Some(part.into());
        self
    }

    #[must_use]
    pub fn on(mut self, endpoint: Endpoint) -> Self {
        self.matches.endpoint = Some(endpoint);
        self
    }

    #[must_use]
    pub fn on_tag(mut self, tag: impl AsRef<str>) -> Self {
        self.matches.tag = Some(tag.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn on_token(mut self, token: impl Into<String>) -> Self {
        self.matches.token = Some(token.into());
        self
    }

    #[must_use]
    pub fn once(self) -> Self {
        self.times(1)
    }

    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    #[must_use]
    pub fn after(mut self, calls: u32) -> Self {
        self.after = calls;
        self
    }

    /// Catches the n-th matching call, then the n-th after that, and so on.
    #[must_use]
    pub fn every(mut self, calls: u32) -> Self {
        self.every = Some(calls);
        self.after = calls.saturating_sub(1);
        self
    }

    #[must_use]
    pub fn chance(mut self, chance: f64) -> Self {
        self.chance = Some(chance);
        self
    }
}

/// The orders of the rules for one call.
#[derive(Debug, Default)]
pub(super) struct Orders {
    pub(super) slow: Duration,
    pub(super) held: Option<Held>,
    pub(super) answer: Option<Misbehaviour>,
}

/// The rules in effect, in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Rules {
    in_force: Mutex<VecDeque<Rule>>,
    /// The number of times that the barrier was opened.
    releases: Signal<u64>,
    held: Signal<usize>,
}

impl Rules {
    fn rules(&self) -> MutexGuard<'_, VecDeque<Rule>> {
        self.in_force.lock()
    }

    pub(super) fn add(&self, rule: Rule) {
        self.rules().push_back(rule);
    }

    pub(super) fn all(&self) -> Vec<Rule> {
        self.rules().iter().cloned().collect()
    }

    pub(super) fn clear(&self) {
        self.rules().clear();
        self.open_barrier();
    }

    /// Lets every held call go on, and holds none of the later ones.
    pub(super) fn release(&self) {
        self.rules().retain(|rule| rule.what != Misbehaviour::HoldUntilReleased);
        self.open_barrier();
    }

    fn open_barrier(&self) {
        self.releases.update(|releases| *releases += 1);
    }

    /// Waits until `count` calls are held at the same time.
    pub(super) async fn wait_until_held(&self, count: usize) {
        self.held.wait_for(|held| *held >= count).await;
    }

    pub(super) async fn wait_until_none_is_held(&self) {
        self.held.wait_for(|held| *held == 0).await;
    }

    pub(super) fn held(&self) -> usize {
        self.held.get()
    }

    /// Applies the rules to one call, and uses them up by one.
    pub(super) fn orders_for(&self, asked: &Asked, token: &str) -> Orders {
        let mut rules = self.rules();
        let mut orders = Orders::default();
        for rule in rules.iter_mut() {
            // The first response wins. Later rules are not used up.
            if orders.answer.is_some() {
                break;
            }
            if !rule.matches.catches(asked, token) {
                continue;
            }
            // Spared calls count only when the rule matches.
            if rule.after > 0 {
                rule.after -= 1;
                continue;
            }
            // Before `times`, so that only real catches use up the rule.
            if rule.chance.is_some_and(|chance| fastrand::f64() >= chance) {
                continue;
            }
            // The next catch is `every` matching calls away.
            if let Some(every) = rule.every {
                rule.after = every.saturating_sub(1);
            }
            if let Some(times) = &mut rule.times {
                if *times == 0 {
                    continue;
                }
                *times -= 1;
            }
            match &rule.what {
                Misbehaviour::Slow(delay) => orders.slow += *delay,
                Misbehaviour::HoldUntilReleased if orders.held.is_some() => {}
                // Counted while the rules are locked, so that a release cannot slip in between.
                Misbehaviour::HoldUntilReleased => orders.held = Some(Held::enter(self)),
                other => orders.answer = Some(other.clone()),
            }
        }
        // Removed, so that long runs do not search used-up rules.
        rules.retain(|rule| rule.times != Some(0));
        orders
    }
}

/// A call at the barrier. Dropping it, as happens when the client gives up, takes it off the count.
#[derive(Debug)]
pub(super) struct Held {
    releases: Signal<u64>,
    entered_at: u64,
    count: Signal<usize>,
}

impl Held {
    fn enter(rules: &Rules) -> Self {
        // Read before the call is counted: whoever waits for the count may release at once.
        let entered_at = rules.releases.get();
        rules.held.update(|held| *held += 1);
        Self { releases: rules.releases.clone(), entered_at, count: rules.held.clone() }
    }

    pub(super) async fn until_released(self) {
        self.releases.wait_for(|releases| *releases > self.entered_at).await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.count.update(|held| *held -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(path: &str) -> Asked {
        Asked::parse(path)
    }

    #[test]
    fn rule_spares_first_calls_and_is_used_up() {
        let rules = Rules::default();
        rules.add(Rule::new(Misbehaviour::Status502).on(Endpoint::Clan).after(1).times(2));
        let answers: Vec<bool> =
            (0..5).map(|_| rules.orders_for(&asked("/v1/clans/%232PP"), "t").answer.is_some()).collect();
        assert_eq!(answers, [false, true, true, false, false]);
        assert!(rules.all().is_empty());
    }

    #[test]
    fn rule_catches_every_third_call() {
        let rules = Rules::default();
        rules.add(Rule::new(Misbehaviour::Status502).every(3));
        let caught = |_| rules.orders_for(&asked("/v1/clans/%232PP"), "t").answer.is_some();
        let answers: Vec<bool> = (0..7).map(caught).collect();
        assert_eq!(answers, [false, false, true, false, false, true, false]);
    }

    #[test]
    fn rule_needs_every_part_to_match() {
        let rules = Rules::default();
        rules.add(Rule::new(Misbehaviour::NotFound).on_tag("#2PP").on_token("a").on_path("/currentwar"));
        assert!(rules.orders_for(&asked("/v1/clans/%232PP"), "a").answer.is_none());
        assert!(rules.orders_for(&asked("/v1/clans/%232PP/currentwar"), "b").answer.is_none());
        assert!(rules.orders_for(&asked("/v1/clans/%232P/currentwar"), "a").answer.is_none());
        assert!(rules.orders_for(&asked("/v1/clans/%232PP/currentwar"), "a").answer.is_some());
    }

    #[test]
    fn delays_add_up_and_first_answer_wins() {
        let rules = Rules::default();
        rules.add(Rule::new(Misbehaviour::Slow(Duration::from_millis(20))));
        rules.add(Rule::new(Misbehaviour::Slow(Duration::from_millis(30))));
        rules.add(Rule::new(Misbehaviour::Maintenance));
        rules.add(Rule::new(Misbehaviour::NotFound));
        let orders = rules.orders_for(&asked("/v1/clans/%232PP"), "t");
        assert_eq!(orders.slow, Duration::from_millis(50));
        assert_eq!(orders.answer, Some(Misbehaviour::Maintenance));
    }

    #[test]
    fn rules_are_written_as_json() {
        let rule: Rule = serde_json::from_str(
            r##"{"matches": {"tag": "#2PP", "endpoint": "currentwar"}, "what": {"throttled": {"retry_after": 5}}, "times": 2}"##,
        )
        .unwrap();
        let expected = Rule::new(Misbehaviour::Throttled { retry_after: Some(5) });
        assert_eq!(rule, expected.on_tag("#2PP").on(Endpoint::CurrentWar).times(2));
        for what in [
            r#""status_502""#,
            r#"{"slow_ms": 250}"#,
            r#"{"huge_body": 10}"#,
            r#""cut_mid_body""#,
            r#""stall_mid_body""#,
        ] {
            serde_json::from_str::<Rule>(&format!(r#"{{"what": {what}}}"#)).unwrap();
        }
        assert!(serde_json::from_str::<Rule>(r#"{"what": "not_found", "tmies": 3}"#).is_err());
    }
}
