//! `keys`: which API keys there are and how they are; trying them, renewing them, revoking those of no use.
//!
//! Shows no token, no e-mail address and no password: a key goes by its fingerprint, an account by its variable.
//! **Invariant: a key of another name is never touched**, and one that a run uses is not revoked.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::time::Instant;

use super::{
    Ending, Shared,
    check::api as trials,
    connect,
    text::{self, Align, Style, Table, counted, span},
};
use crate::{
    api::{
        portal::{ListedKey, Visit},
        wallet::{Account, Wallet},
    },
    app,
    clock::SystemClock,
    config::{ApiConfig, env::process_var},
    model::Fingerprint,
    queue::{Holder, SlotView, Slots, redis::RedisQueue},
    worker::{
        cooldown::CooldownReason,
        login::{self, Trouble},
    },
};

/// How long another process's login is waited for.
const PATIENCE: Duration = Duration::from_secs(45);

/// Shows the API keys, tries them, renews them, and revokes those of no use
///
/// Knows those of COC_API_TOKEN and COC_API_TOKENS, and those in the accounts of the developer portal (COC_EMAIL,
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

/// Shows every key: where it is from, what it is bound to, who uses it, whether it rests, the rate it has learned
///
/// Logs in to the accounts of the developer portal, and changes nothing there. Needs REDIS_URL and the settings of the
/// keys.
#[derive(Debug, Args)]
#[command(after_help = "\
States:
  ok             free, or just left
  in use         a run has it
  paused         the API refused a call; every run leaves it alone for that long
  benched        the API does not accept it
  other address  ours, and bound to another address than this machine's
  foreign        somebody else's: never touched")]
struct ListArgs {
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Makes one call with each key and says what the API answers
///
/// Within each key's rate, and not with a key that a run is using or that rests. Of the developer portal's keys it tries
/// those that a run from this machine would use, and says what a run would make and revoke; it does neither. What the API
/// says of a key's rate, or of the key itself, holds for runs too. Exit code 1 when a key is not accepted.
#[derive(Debug, Args)]
struct TestArgs {
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Logs in to the developer portal now, and sees to it that there are keys for this machine's address
///
/// Keys that are good are kept. Those that the API does not accept, or that are bound to another address, are replaced;
/// they are revoked only when they are in the way of the account's limit of ten, and never while a run is using them. Does
/// not wait for the end of a rest after a failed login.
#[derive(Debug, Args)]
struct RenewArgs {
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Revokes keys of our own name that are of no use here: bound to another address, or not accepted by the API
///
/// Says which, and does nothing without --yes. Another machine with another address may need its keys: look at the
/// addresses first. Keys that a run is using stay.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker keys prune          says which
  refresh-worker keys prune --yes    revokes them")]
struct PruneArgs {
    /// Do it
    #[arg(long)]
    yes: bool,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: KeysArgs, shared: &Shared) -> anyhow::Result<Ending> {
    let config = ApiConfig::read(&process_var)?;
    let queue = connect::queue()?;
    let tools = Tools { wallet: app::wallet(&config)?, queue, run: format!("keys-{:012x}", fastrand::u64(..1 << 48)) };
    match args.command {
        KeysCommand::List(ListArgs { json }) => tools.list(json, shared.style()).await,
        KeysCommand::Test(TestArgs { json }) => test(&config, &tools.queue, json, shared.style()).await,
        KeysCommand::Renew(RenewArgs { json }) => tools.renew(json, shared.style()).await,
        KeysCommand::Prune(PruneArgs { yes, json }) => tools.prune(yes, json, shared.style()).await,
    }
}

/// How a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    InUse,
    Paused,
    Benched,
    OtherAddress,
    Foreign,
}

/// One key as it is shown.
#[derive(Debug, Serialize)]
struct Row {
    key: Fingerprint,
    /// The variable that it, or its account, is from.
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
    /// How long its slot or its rest lasts, unless it is renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<f64>,
    /// Calls a second, when runs have come down to less than the cap.
    #[serde(skip_serializing_if = "Option::is_none")]
    learned_rate: Option<f64>,
    /// The rate that was too much.
    #[serde(skip_serializing_if = "Option::is_none")]
    ceiling: Option<f64>,
}

impl Row {
    fn new(key: Fingerprint, from: &str, view: SlotView) -> Self {
        let SlotView { holder, for_another, learned_rate } = view;
        let (state, reason, run) = match holder {
            Holder::Nobody | Holder::Left => (State::Ok, None, None),
            Holder::Run(run) => (State::InUse, None, Some(run)),
            Holder::Paused(reason) => match CooldownReason::parse(&reason) {
                CooldownReason::Rejected(reason) => (State::Benched, Some(reason), None),
                CooldownReason::Other(reason) => (State::Paused, Some(reason), None),
            },
        };
        Self {
            key,
            from: from.to_owned(),
            name: None,
            addresses: Vec::new(),
            ours: true,
            seconds_left: (state != State::Ok).then_some(for_another.as_secs_f64()),
            state,
            reason,
            run,
            learned_rate: learned_rate.map(|learned| learned.rate),
            ceiling: learned_rate.and_then(|learned| learned.ceiling),
        }
    }

    /// What the portal knows about it.
    fn listed(self, key: &ListedKey, visit: &Visit<'_>) -> Self {
        let ours = visit.is_ours(key);
        let state = match self.state {
            _ if !ours => State::Foreign,
            State::Ok if !key.is_good_for(visit.addresses()) => State::OtherAddress,
            state => state,
        };
        Self { name: Some(key.name.clone()), addresses: key.cidr_ranges.clone(), ours, state, ..self }
    }

    /// Of no use here, and of no use to a run at this moment either.
    fn is_stale(&self) -> bool {
        self.ours && matches!(self.state, State::OtherAddress | State::Benched)
    }

    fn told(&self) -> String {
        let left = span(Duration::from_secs_f64(self.seconds_left.unwrap_or_default().max(0.0)));
        let reason = self.reason.as_deref().unwrap_or_default();
        match self.state {
            State::Ok => "ok".to_owned(),
            State::InUse => format!("in use by {}", self.run.as_deref().unwrap_or_default()),
            State::Paused => format!("paused for {left}: {reason}"),
            State::Benched => format!("benched for {left}: {reason}"),
            State::OtherAddress => "other address".to_owned(),
            State::Foreign => "foreign".to_owned(),
        }
    }

    fn rate(&self) -> String {
        match (self.learned_rate, self.ceiling) {
            (Some(rate), Some(ceiling)) => format!("{rate:.1} (too much: {ceiling:.1})"),
            (Some(rate), None) => format!("{rate:.1}"),
            (None, _) => String::new(),
        }
    }
}

/// What the commands work with.
struct Tools {
    wallet: Wallet,
    queue: RedisQueue,
    run: String,
}

impl Tools {
    async fn list(&self, json: bool, style: Style) -> anyhow::Result<Ending> {
        let mut rows = Vec::new();
        for key in self.wallet.fixed() {
            let view = self.queue.look_at_key(key.fingerprint()).await?;
            rows.push(Row::new(key.fingerprint().clone(), "COC_API_TOKEN(S)", view));
        }
        let mut failures = Vec::new();
        for account in self.wallet.accounts() {
            let look = async {
                let visit = account.visit().await?;
                self.rows(account, &visit).await
            };
            let looked = login::look_into(&self.queue, account, Instant::now() + PATIENCE, look).await?;
            match looked.map_err(|failure| format!("failed to {failure}")) {
                Ok(found) => rows.extend(found),
                Err(failure) => failures.push(failure),
            }
        }
        let told = if json {
            serde_json::to_string_pretty(&serde_json::json!({"keys": rows, "failures": failures}))? + "\n"
        } else {
            render(&rows, &failures, style)
        };
        text::print(&told)?;
        Ok(if failures.is_empty() { Ending::Well } else { Ending::Badly })
    }

    async fn renew(&self, json: bool, style: Style) -> anyhow::Result<Ending> {
        let (mut done, mut failures) = (Vec::new(), Vec::new());
        for account in self.wallet.accounts() {
            login::end_cooldowns(&self.queue, account).await?;
            match self.with_right(account, login::renew(&self.queue, account, &SystemClock, &self.run)).await? {
                Ok(given) => {
                    let keys: Vec<Fingerprint> = given.keys.iter().map(|key| key.fingerprint().clone()).collect();
                    done.push(Renewed { account: account.name(), keys, made: given.made, revoked: given.revoked });
                }
                Err(failure) => failures.push(failure),
            }
        }
        let told = if json {
            serde_json::to_string_pretty(&serde_json::json!({"accounts": done, "failures": failures}))? + "\n"
        } else if self.wallet.accounts().is_empty() {
            "no account of the developer portal is set (COC_EMAIL, COC_ACCOUNTS): nothing to renew\n".to_owned()
        } else {
            done.iter().map(Renewed::told).chain(failures.iter().map(|failure| failed(failure, style))).collect()
        };
        text::print(&told)?;
        Ok(if failures.is_empty() { Ending::Well } else { Ending::Badly })
    }

    async fn prune(&self, yes: bool, json: bool, style: Style) -> anyhow::Result<Ending> {
        let (mut useless, mut failures) = (Vec::new(), Vec::new());
        for account in self.wallet.accounts() {
            let prune = async {
                let visit = account.visit().await?;
                let rows = self.rows(account, &visit).await?.into_iter().filter(Row::is_stale).collect::<Vec<_>>();
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
        let told = if json {
            let told = serde_json::json!({"keys": useless, "revoked": yes, "failures": failures});
            serde_json::to_string_pretty(&told)? + "\n"
        } else {
            let keys = counted(useless.len() as u64, "key", "keys");
            let end = match (useless.is_empty(), yes) {
                (true, _) => "nothing to revoke: no key of our name is of no use here\n".to_owned(),
                (false, true) => format!("revoked {keys}\n"),
                (false, false) => format!("{keys} of our name are of no use here; --yes revokes them\n"),
            };
            render(&useless, &failures, style) + &end
        };
        text::print(&told)?;
        Ok(if failures.is_empty() { Ending::Well } else { Ending::Badly })
    }

    async fn rows(&self, account: &Account, visit: &Visit<'_>) -> Result<Vec<Row>, Trouble> {
        let mut rows = Vec::new();
        for key in visit.listed() {
            let view = self.queue.look_at_key(&key.fingerprint()).await?;
            rows.push(Row::new(key.fingerprint(), account.name(), view).listed(key, visit));
        }
        Ok(rows)
    }

    /// Does something in an account while nobody else does. The inner error is a sentence.
    async fn with_right<T>(
        &self,
        account: &Account,
        act: impl Future<Output = Result<T, Trouble>>,
    ) -> anyhow::Result<Result<T, String>> {
        let done = login::with_right(&self.queue, account, &self.run, Instant::now() + PATIENCE, act).await?;
        Ok(done.map_err(|failure| format!("failed to {failure}")))
    }
}

/// What became of an account.
#[derive(Debug, Serialize)]
struct Renewed<'a> {
    account: &'a str,
    keys: Vec<Fingerprint>,
    made: usize,
    revoked: usize,
}

impl Renewed<'_> {
    fn told(&self) -> String {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        let (made, revoked) = (self.made, self.revoked);
        format!("{}: {} ({made} made, {revoked} revoked)\n", self.account, keys.join(", "))
    }
}

async fn test(config: &ApiConfig, queue: &RedisQueue, json: bool, style: Style) -> anyhow::Result<Ending> {
    let findings = trials::test(config, queue).await;
    let told = if json { serde_json::to_string_pretty(&findings.to_json())? + "\n" } else { findings.render(style) };
    text::print(&told)?;
    Ok(findings.ending())
}

fn failed(failure: &str, style: Style) -> String {
    format!("{} {failure}\n", style.bad("error:"))
}

fn render(rows: &[Row], failures: &[String], style: Style) -> String {
    let columns = ["key", "from", "name", "addresses", "rate", "state"].map(|name| (name, Align::Left));
    let mut table = Table::new(columns);
    for row in rows {
        let name = row.name.clone().unwrap_or_default();
        table.row([row.key.to_string(), row.from.clone(), name, row.addresses.join(" "), row.rate(), row.told()]);
    }
    let mut text = if rows.is_empty() { String::new() } else { table.render(style) };
    text.extend(failures.iter().map(|failure| failed(failure, style)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Timestamp, model::LearnedRate};

    fn row(token: &str, holder: Holder, learned_rate: Option<LearnedRate>) -> Row {
        let view = SlotView { holder, for_another: Duration::from_millis(29_400), learned_rate };
        Row::new(Fingerprint(token.to_owned()), "COC_EMAIL", view)
    }

    #[test]
    fn a_key_is_shown_with_its_state_its_reason_and_what_it_has_learned() {
        let learned = LearnedRate { ceiling: Some(18.0), changed: Timestamp::EPOCH, ..LearnedRate::plain(17.0) };
        let rows = [
            row("0123456789ab", Holder::Nobody, None),
            row("1123456789ab", Holder::Run("run-7".to_owned()), Some(learned)),
            row("2123456789ab", Holder::Paused("throttled".to_owned()), Some(LearnedRate::plain(15.0))),
            row("3123456789ab", Holder::Paused("rejected: status 403, accessDenied".to_owned()), None),
        ];
        insta::assert_snapshot!(render(&rows, &["failed to log in".to_owned()], Style::PLAIN), @r"
          key           from       name  addresses  rate                   state
          0123456789ab  COC_EMAIL                                          ok
          1123456789ab  COC_EMAIL                   17.0 (too much: 18.0)  in use by run-7
          2123456789ab  COC_EMAIL                   15.0                   paused for 29.4 s: throttled
          3123456789ab  COC_EMAIL                                          benched for 29.4 s: status 403, accessDenied
        error: failed to log in
        ");
        assert_eq!(rows.iter().filter(|row| row.is_stale()).count(), 1);
        let json = serde_json::to_value(&rows[1]).unwrap();
        assert_eq!((&json["state"], &json["ceiling"]), (&"in_use".into(), &18.0.into()));
    }
}
