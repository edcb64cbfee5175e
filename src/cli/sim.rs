//! `sim`: the simulated API as a server.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Args;

use super::{
    Exit, Shared,
    interrupt::Interrupts,
    text::{self, Style, counted},
};
use crate::sim::{Census, SimConfig, Simulator};

/// The key that is printed without --token. Any key is accepted then.
const ANY_KEY: &str = "simulated-key";

/// Serves a simulated Clash of Clans API for tests
///
/// Simulates clans, players and wars from a seed, with the API's response formats, cache times and recorded errors. Counts
/// calls per key and misbehaves on request. Stores nothing. Ctrl-C ends it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  refresh-worker sim
  refresh-worker sim --listen 127.0.0.1:0 --clans 500 --rate-limit 30 --latency-ms 150
  refresh-worker sim --fixtures recorded/        serves recorded responses; manifest.json lists them")]
pub struct SimArgs {
    /// The address to listen on; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The same seed makes the same world
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The number of clans, with about 25 players each
    #[arg(long, default_value_t = 48, value_name = "COUNT")]
    clans: usize,
    /// Refuse (429) calls beyond this many per key and second; without it calls are only counted
    #[arg(long, value_name = "CALLS")]
    rate_limit: Option<u32>,
    /// Delay every response by this many milliseconds
    #[arg(long, default_value_t = 0, value_name = "MILLISECONDS")]
    latency_ms: u64,
    /// The speed of the world: 1 is real time, 60 is a minute per second, 0 stands still
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    evolve: f64,
    /// Accept only this key (repeatable); without it any key is accepted
    #[arg(long, value_name = "KEY")]
    token: Vec<String>,
    /// Open an account of the simulated developer portal (repeatable). Then the API accepts only keys of the accounts and
    /// of --token
    #[arg(long, value_name = "EMAIL:PASSWORD", value_parser = parse_account)]
    account: Vec<(String, String)>,
    /// Serve the recorded responses of this folder instead of a generated world; its manifest.json lists them
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
}

pub async fn run(args: SimArgs, shared: &Shared) -> anyhow::Result<Exit> {
    let key = args.token.first().cloned().unwrap_or_else(|| ANY_KEY.to_owned());
    let listen = args.listen;
    // Before the port opens, since a test may stop it at once.
    let mut interrupts = Interrupts::listen()?;
    let accounts = args.account.clone();
    let simulator = Simulator::start_on(listen, args.into_config()).await.context("cannot start the simulator")?;
    for (email, password) in &accounts {
        simulator.open_account(email, password);
    }
    let account = accounts.first();
    let welcome = Welcome { base_url: simulator.base_url().as_str(), key: &key, world: &simulator.world(), account }
        .render(shared.style());
    text::print(&welcome)?;
    interrupts.next().await;
    let served = counted(simulator.total_calls(), "call", "calls");
    simulator.stop().await;
    text::print(&format!("\nserved {served}\n"))?;
    Ok(Exit::Success)
}

impl SimArgs {
    fn into_config(self) -> SimConfig {
        SimConfig {
            seed: self.seed,
            clans: self.clans,
            tokens: self.token,
            rate_limit: self.rate_limit,
            latency: Duration::from_millis(self.latency_ms),
            fixtures: self.fixtures,
            evolve: self.evolve,
            ..SimConfig::default()
        }
    }
}

fn parse_account(text: &str) -> Result<(String, String), String> {
    let (email, password) = text.split_once(':').ok_or("expected EMAIL:PASSWORD")?;
    Ok((email.to_owned(), password.to_owned()))
}

/// The instructions on the screen while it serves.
struct Welcome<'a> {
    base_url: &'a str,
    key: &'a str,
    world: &'a Census,
    account: Option<&'a (String, String)>,
}

impl Welcome<'_> {
    fn render(&self, style: Style) -> String {
        let Self { base_url, key, world, account } = self;
        // The control paths are outside the version of the API.
        let control = base_url.trim_end_matches("/v1");
        let clans = counted(world.clan_tags().len() as u64, "clan", "clans");
        let players = counted(world.player_tags().len() as u64, "player", "players");
        let clan = world.clan_tags().first().map(|tag| format!("clan:{}", tag.as_str()));
        let player = world.player_tags().first().map(|tag| format!("player:{}", tag.as_str()));
        let objects: Vec<String> = clan.into_iter().chain(player).collect();
        let mut text = format!("simulated API at {base_url}: {clans}, {players}\n");
        let mut section = |title: &str, lines: &[String]| {
            let _ = writeln!(text, "\n{}", style.bold(title));
            for line in lines {
                let _ = writeln!(text, "  {line}");
            }
        };
        let mut settings = vec![format!("export COC_BASE_URL={base_url}")];
        match account {
            Some((email, password)) => settings.extend([
                format!("export COC_PORTAL_URL={control}"),
                format!("export COC_EMAIL={email} COC_PASSWORD={password}"),
            ]),
            None => settings.push(format!("export COC_API_TOKEN={key}")),
        }
        section("Point the worker at it", &settings);
        if !objects.is_empty() {
            section("Request an object that exists", &[format!("refresh-worker enqueue {}", objects.join(" "))]);
        }
        let post = "curl -H 'content-type: application/json'";
        section(
            "Inspect and disturb it",
            &[
                format!("curl {control}/_sim/calls    # by key and status, with the busiest second"),
                format!("curl {control}/_sim/world    # the tags that exist"),
                format!(
                    "{post} -d '{{\"what\": {{\"throttled\": {{\"retry_after\": 5}}}}, \"times\": 1}}' {control}/_sim/misbehave"
                ),
                format!(
                    "{post} -d '{{\"what\": \"status_502\", \"matches\": {{\"endpoint\": \"clan\"}}, \"times\": 3}}' {control}/_sim/misbehave"
                ),
                format!("curl -X DELETE {control}/_sim/misbehave    # stop misbehaving"),
                format!("{post} -d '{{\"on\": true}}' {control}/_sim/maintenance"),
            ],
        );
        if account.is_some() {
            section(
                "The developer portal",
                &[
                    format!("curl {control}/_sim/portal    # accounts, their keys, requests"),
                    format!(
                        "{post} -d '{{\"address\": \"198.51.100.4\"}}' {control}/_sim/portal/address    # all clients move there"
                    ),
                    format!("{post} -d '{{\"what\": \"temporary\"}}' {control}/_sim/portal/trouble    # null: none"),
                ],
            );
        }
        text.push_str("\nCtrl-C ends it.\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn welcome_shows_settings_and_controls() {
        let base_url = "http://127.0.0.1:8080/v1";
        let welcome = Welcome { base_url, key: "k", world: &Census::default(), account: None };
        insta::assert_snapshot!(welcome.render(Style::PLAIN), @r#"
        simulated API at http://127.0.0.1:8080/v1: 0 clans, 0 players

        Point the worker at it
          export COC_BASE_URL=http://127.0.0.1:8080/v1
          export COC_API_TOKEN=k

        Inspect and disturb it
          curl http://127.0.0.1:8080/_sim/calls    # by key and status, with the busiest second
          curl http://127.0.0.1:8080/_sim/world    # the tags that exist
          curl -H 'content-type: application/json' -d '{"what": {"throttled": {"retry_after": 5}}, "times": 1}' http://127.0.0.1:8080/_sim/misbehave
          curl -H 'content-type: application/json' -d '{"what": "status_502", "matches": {"endpoint": "clan"}, "times": 3}' http://127.0.0.1:8080/_sim/misbehave
          curl -X DELETE http://127.0.0.1:8080/_sim/misbehave    # stop misbehaving
          curl -H 'content-type: application/json' -d '{"on": true}' http://127.0.0.1:8080/_sim/maintenance

        Ctrl-C ends it.
        "#);
    }

    #[test]
    fn welcome_with_account_names_the_portal() {
        let account = ("a@x.com".to_owned(), "p".to_owned());
        let base_url = "http://127.0.0.1:8080/v1";
        let welcome = Welcome { base_url, key: "k", world: &Census::default(), account: Some(&account) };
        let text = welcome.render(Style::PLAIN);
        assert!(
            text.contains("  export COC_PORTAL_URL=http://127.0.0.1:8080\n  export COC_EMAIL=a@x.com COC_PASSWORD=p\n")
        );
        assert!(text.contains("/_sim/portal/address") && !text.contains("COC_API_TOKEN"), "{text}");
    }
}
