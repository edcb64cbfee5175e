//! `keys`: lists, tests, renews and revokes API keys.
//!
//! Shows no token, e-mail address or password: a key is named by its fingerprint, an account by its variable.
//! **Invariant: a key of another name is never touched**, and a key that a run uses is not revoked.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::time::Instant;

use super::{
    Exit, Shared,
    check::api as trials,
    connect,
    text::{self, Align, Style, Table, counted, span},
};
use crate::{
    api::{
        keys::portal::{ListedKey, Visit},
        keys::{Account, KeyStore},
    },
    app,
    clock::SystemClock,
    config::{ApiConfig, env::process_var},
    model::Fingerprint,
    queue::{Holder, SharedState, SlotView, redis::RedisQueue},
    worker::{
        cooldown::CooldownReason,
        login::{self, Trouble},
    },
};

/// Longer than the login of another process takes.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(45);

/// Lists, tests, renews and revokes API keys
///
/// The keys are those of COC_API_TOKEN and COC_API_TOKENS, and those in the accounts of the developer portal (COC_EMAIL,
/// COC_ACCOUNTS).
#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    List(ListArgs),
    Test(TestArgs),
    Renew(RenewArgs),
    Prune(PruneArgs),
}

/// Lists every key with its origin, its addresses, its learned rate and its state
///
/// Logs in to the accounts of the developer portal, and changes nothing there. Needs REDIS_URL and the settings of the
/// keys.
#[derive(Debug, Args)]
#[command(after_help = "\
States:
  ok             free
  in use         a run is using it
  cooling down   the API refused a call; no run uses the key until the cooldown is over
  rejected       the API does not accept the key
  other address  our key, bound to another address than this machine's
  foreign        a key of another name: never touched")]
struct ListArgs {
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Makes one test call with each key
///
/// The calls stay within the rate of each key. Keys that a run is using or that are cooling down are skipped. In accounts of
/// the developer portal it tests the keys that a run on this machine would use, and shows what a run would create and
/// revoke; it does neither. If the API throttles or rejects a key, runs will know it, too. The exit code is 1 when a key is
/// not accepted. Needs REDIS_URL and the settings of the keys.
#[derive(Debug, Args)]
struct TestArgs {
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Logs in to the developer portal, and makes sure that there are keys for this machine's address
///
/// Good keys are kept. Keys that the API rejects, or that are bound to another address, are replaced. They are revoked only
/// when the account has no room for new ones (ten keys), and never while a run uses them. Ignores the cooldown after a
/// failed login. Needs REDIS_URL and the settings of the keys.
#[derive(Debug, Args)]
struct RenewArgs {
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Revokes keys of our own name that are useless here: bound to another address, or rejected by the API
///
/// Lists them, and revokes only with --yes. Another machine may need keys for its address, so look at the addresses first.
/// Keys that a run is using stay. Needs REDIS_URL and the settings of the keys.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker keys prune          lists them
  refresh-worker keys prune --yes    revokes them")]
struct PruneArgs {
    /// Revoke the listed keys
    #[arg(long)]
    yes: bool,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: KeysArgs, shared: &Shared) -> anyhow::Result<Exit> {
    let config = ApiConfig::read(&process_var)?;
    let queue = connect::queue()?;
    let tools =
        Tools { key_store: app::key_store(&config)?, queue, run: format!("keys-{:012x}", fastrand::u64(..1 << 48)) };
    match args.command {
        KeysCommand::List(ListArgs { json }) => tools.list(json, shared.style()).await,
        KeysCommand::Test(TestArgs { json }) => test(&config, &tools.queue, json, shared.style()).await,
        KeysCommand::Renew(RenewArgs { json }) => tools.renew(json, shared.style()).await,
        KeysCommand::Prune(PruneArgs { yes, json }) => tools.prune(yes, json, shared.style()).await,
    }
}

/// The state of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    InUse,
    CoolingDown,
    Rejected,
    OtherAddress,
    Foreign,
}

/// A key as it is shown.
#[derive(Debug, Serialize)]
struct Row {
    key: Fingerprint,
    /// The variable of the key, or of its account.
    from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    addresses: Vec<String>,
    ours: bool,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The run that has the key's slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    /// Until its slot or its cooldown ends, unless it is renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<f64>,
    /// Calls per second, if runs have lowered the rate below the cap.
    #[serde(skip_serializing_if = "Option::is_none")]
    aimd_state: Option<f64>,
    /// The rate at which the API refused calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    ceiling: Option<f64>,
}

impl Row {
    fn new(key: Fingerprint, from: &str, view: SlotView) -> Self {
        let SlotView { holder, for_another, aimd_state } = view;
        let (state, reason, run) = match holder {
            Holder::Nobody | Holder::Released => (State::Ok, None, None),
            Holder::Run(run) => (State::InUse, None, Some(run)),
            Holder::CoolingDown(reason) => match CooldownReason::parse(&reason) {
                CooldownReason::Rejected(reason) => (State::Rejected, Some(reason), None),
                CooldownReason::Other(reason) => (State::CoolingDown, Some(reason), None),
            },
        };
        Self {
            key,
            from: from.to_owned(),
            name: None,
            addresses: Vec::new(),
            ours: true,
            // A free slot has a remaining time, too, which means nothing to a person.
            seconds_left: (state != State::Ok).then_some(for_another.as_secs_f64()),
            state,
            reason,
            run,
            aimd_state: aimd_state.map(|learned| learned.rate),
            ceiling: aimd_state.and_then(|learned| learned.ceiling),
        }
    }

    /// Adds what the portal knows about the key.
    fn listed(self, key: &ListedKey, visit: &Visit<'_>) -> Self {
        let ours = visit.is_ours(key);
        let state = match self.state {
            // Foreign first: the state of a foreign key is not our business.
            _ if !ours => State::Foreign,
            State::Ok if !key.is_good_for(visit.addresses()) => State::OtherAddress,
            state => state,
        };
        Self { name: Some(key.name.clone()), addresses: key.cidr_ranges.clone(), ours, state, ..self }
    }

    /// True when neither this machine nor a run can use the key.
    fn is_useless(&self) -> bool {
        self.ours && matches!(self.state, State::OtherAddress | State::Rejected)
    }

    fn state_text(&self) -> String {
        let left = span(Duration::from_secs_f64(self.seconds_left.unwrap_or_default().max(0.0)));
        let reason = self.reason.as_deref().unwrap_or_default();
        match self.state {
            State::Ok => "ok".to_owned(),
            State::InUse => format!("in use by {}", self.run.as_deref().unwrap_or_default()),
            State::CoolingDown => format!("cooling down for {left}: {reason}"),
            State::Rejected => format!("rejected for {left}: {reason}"),
            State::OtherAddress => "other address".to_owned(),
            State::Foreign => "foreign".to_owned(),
        }
    }

    fn rate(&self) -> String {
        match (self.aimd_state, self.ceiling) {
            (Some(rate), Some(ceiling)) => format!("{rate:.1} (throttled at {ceiling:.1})"),
            (Some(rate), None) => format!("{rate:.1}"),
            (None, _) => String::new(),
        }
    }
}

/// The parts that the commands share.
struct Tools {
    key_store: KeyStore,
    queue: RedisQueue,
    run: String,
}

impl Tools {
    async fn list(&self, json: bool, style: Style) -> anyhow::Result<Exit> {
        let mut rows = Vec::new();
        for key in self.key_store.fixed() {
            let view = self.queue.look_at_key(key.fingerprint()).await?;
            rows.push(Row::new(key.fingerprint().clone(), "COC_API_TOKEN(S)", view));
        }
        let mut failures = Vec::new();
        for account in self.key_store.accounts() {
            let look = async {
                let visit = account.visit().await?;
                self.rows(account, &visit).await
            };
            let looked = login::look_into(&self.queue, account, Instant::now() + LOGIN_TIMEOUT, look).await?;
            match looked {
                Ok(found) => rows.extend(found),
                Err(failure) => failures.push(failure),
            }
        }
        let output = if json {
            serde_json::to_string_pretty(&serde_json::json!({"keys": rows, "failures": failures}))? + "\n"
        } else {
            render(&rows, &failures, style)
        };
        text::print(&output)?;
        Ok(if failures.is_empty() { Exit::Success } else { Exit::Failure })
    }

    async fn renew(&self, json: bool, style: Style) -> anyhow::Result<Exit> {
        let (mut done, mut failures) = (Vec::new(), Vec::new());
        for account in self.key_store.accounts() {
            // Whoever runs this has probably fixed the cause of the cooldown.
            login::end_cooldowns(&self.queue, account).await?;
            match self.with_right(account, login::renew(&self.queue, account, &SystemClock, &self.run)).await? {
                Ok(given) => {
                    let keys: Vec<Fingerprint> = given.keys.iter().map(|key| key.fingerprint().clone()).collect();
                    done.push(Renewed { account: account.name(), keys, made: given.created, revoked: given.revoked });
                }
                Err(failure) => failures.push(failure),
            }
        }
        let output = if json {
            serde_json::to_string_pretty(&serde_json::json!({"accounts": done, "failures": failures}))? + "\n"
        } else if self.key_store.accounts().is_empty() {
            "nothing to renew: no account of the developer portal is configured (COC_EMAIL, COC_ACCOUNTS)\n".to_owned()
        } else {
            done.iter().map(Renewed::line).chain(failures.iter().map(|failure| error_line(failure, style))).collect()
        };
        text::print(&output)?;
        Ok(if failures.is_empty() { Exit::Success } else { Exit::Failure })
    }

    async fn prune(&self, yes: bool, json: bool, style: Style) -> anyhow::Result<Exit> {
        let (mut useless, mut failures) = (Vec::new(), Vec::new());
        for account in self.key_store.accounts() {
            let prune = async {
                let visit = account.visit().await?;
                let rows = self.rows(account, &visit).await?.into_iter().filter(Row::is_useless).collect::<Vec<_>>();
                // The list comes from the same login as the revocations, so it cannot be outdated.
                for row in rows.iter().filter(|_| yes) {
                    if let Some(key) = visit.listed().iter().find(|key| key.fingerprint() == row.key) {
                        visit.revoke(key).await?;
                    }
                }
                Ok(rows)
            };
            match self.with_right(account, prune).await? {
                Ok(rows) => useless.extend(rows),
                Err(failure) => failures.push(failure),
            }
        }
        let output = if json {
            let json = serde_json::json!({"keys": useless, "revoked": yes, "failures": failures});
            serde_json::to_string_pretty(&json)? + "\n"
        } else {
            let keys = counted(useless.len() as u64, "key", "keys");
            let end = match (useless.is_empty(), yes) {
                (true, _) => "nothing to revoke: every key of our name is usable here\n".to_owned(),
                (false, true) => format!("revoked {keys}\n"),
                (false, false) => format!("{keys} of our name cannot be used here; --yes revokes them\n"),
            };
            render(&useless, &failures, style) + &end
        };
        text::print(&output)?;
        Ok(if failures.is_empty() { Exit::Success } else { Exit::Failure })
    }

    async fn rows(&self, account: &Account, visit: &Visit<'_>) -> Result<Vec<Row>, Trouble> {
        let mut rows = Vec::new();
        for key in visit.listed() {
            let view = self.queue.look_at_key(&key.fingerprint()).await?;
            rows.push(Row::new(key.fingerprint(), account.name(), view).listed(key, visit));
        }
        Ok(rows)
    }

    /// Works in an account while no other process does. The inner error is a sentence.
    async fn with_right<T>(
        &self,
        account: &Account,
        act: impl Future<Output = Result<T, Trouble>>,
    ) -> anyhow::Result<Result<T, String>> {
        let done = login::with_right(&self.queue, account, &self.run, Instant::now() + LOGIN_TIMEOUT, act).await?;
        Ok(done)
    }
}

/// The result for an account.
#[derive(Debug, Serialize)]
struct Renewed<'a> {
    account: &'a str,
    keys: Vec<Fingerprint>,
    made: usize,
    revoked: usize,
}

impl Renewed<'_> {
    fn line(&self) -> String {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        let (made, revoked) = (self.made, self.revoked);
        format!("{}: {} ({made} created, {revoked} revoked)\n", self.account, keys.join(", "))
    }
}

async fn test(config: &ApiConfig, queue: &RedisQueue, json: bool, style: Style) -> anyhow::Result<Exit> {
    let findings = trials::test(config, queue).await;
    let output = if json { serde_json::to_string_pretty(&findings.to_json())? + "\n" } else { findings.render(style) };
    text::print(&output)?;
    Ok(findings.exit())
}

fn error_line(failure: &str, style: Style) -> String {
    format!("{} {failure}\n", style.bad("error:"))
}

fn render(rows: &[Row], failures: &[String], style: Style) -> String {
    let columns = ["key", "from", "name", "addresses", "rate", "state"].map(|name| (name, Align::Left));
    let mut table = Table::new(columns);
    for row in rows {
        let name = row.name.clone().unwrap_or_default();
        table.row([row.key.to_string(), row.from.clone(), name, row.addresses.join(" "), row.rate(), row.state_text()]);
    }
    let mut text = if rows.is_empty() { String::new() } else { table.render(style) };
    text.extend(failures.iter().map(|failure| error_line(failure, style)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Timestamp, model::AimdState};

    fn row(token: &str, holder: Holder, aimd_state: Option<AimdState>) -> Row {
        let view = SlotView { holder, for_another: Duration::from_millis(29_400), aimd_state };
        Row::new(Fingerprint(token.to_owned()), "COC_EMAIL", view)
    }

    #[test]
    fn list_shows_state_reason_and_learned_rate() {
        let learned = AimdState { ceiling: Some(18.0), changed: Timestamp::EPOCH, ..AimdState::plain(17.0) };
        let rows = [
            row("0123456789ab", Holder::Nobody, None),
            row("1123456789ab", Holder::Run("run-7".to_owned()), Some(learned)),
            row("2123456789ab", Holder::CoolingDown("throttled".to_owned()), Some(AimdState::plain(15.0))),
            row("3123456789ab", Holder::CoolingDown("rejected: status 403, accessDenied".to_owned()), None),
        ];
        insta::assert_snapshot!(render(&rows, &["cannot log in".to_owned()], Style::PLAIN), @r"
          key           from       name  addresses  rate                      state
          0123456789ab  COC_EMAIL                                             ok
          1123456789ab  COC_EMAIL                   17.0 (throttled at 18.0)  in use by run-7
          2123456789ab  COC_EMAIL                   15.0                      cooling down for 29.4 s: throttled
          3123456789ab  COC_EMAIL                                             rejected for 29.4 s: status 403, accessDenied
        error: cannot log in
        ");
        assert_eq!(rows.iter().filter(|row| row.is_useless()).count(), 1);
        let json = serde_json::to_value(&rows[1]).unwrap();
        assert_eq!((&json["state"], &json["ceiling"]), (&"in_use".into(), &18.0.into()));
    }
}
