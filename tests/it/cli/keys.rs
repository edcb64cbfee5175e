//! `keys` and what `check` says about keys, against the simulated portal and API.

use refresh_worker::{
    clock::SystemClock,
    config::RedisConfig,
    model::{AimdState, Fingerprint},
    queue::{Holder, SharedState as _, redis::RedisQueue},
    sim::{Misbehaviour, PortalTrouble, Rule, Simulator},
};
use serde_json::Value;

use super::Shell;
use crate::support;

const EMAIL: &str = "somebody@example.com";
const PASSWORD: &str = "correct-horse";
const NAME: &str = "refresh-worker-cli";
const HERE: &str = "203.0.113.7";

struct Bench {
    simulator: Simulator,
    redis: String,
}

impl Bench {
    async fn start() -> Self {
        let simulator = super::simulator(&["configured.key"]).await;
        simulator.open_account(EMAIL, PASSWORD);
        Self { simulator, redis: support::redis::fresh().await }
    }

    fn shell(&self) -> Shell {
        Shell::new()
            .with("REDIS_URL", &self.redis)
            .with("COC_BASE_URL", self.simulator.base_url().as_str())
            .with("COC_PORTAL_URL", self.simulator.portal_url().as_str())
            .with("COC_EMAIL", EMAIL)
            .with("COC_PASSWORD", PASSWORD)
            .with("COC_KEY_NAME", NAME)
    }

    fn queue(&self) -> RedisQueue {
        let config = RedisConfig { url: self.redis.as_str().into(), cluster: false, namespace: "refresh".to_owned() };
        RedisQueue::connect(&config, std::sync::Arc::new(SystemClock)).unwrap()
    }

    async fn keys(&self) -> Vec<Value> {
        let output = self.shell().with("COC_API_TOKEN", "configured.key").run(&["keys", "list", "--json"]).await.well();
        serde_json::from_str::<Value>(&output).unwrap()["keys"].as_array().unwrap().clone()
    }
}

fn minute() -> std::time::Duration {
    std::time::Duration::from_secs(60)
}

#[tokio::test]
async fn keys_list_shows_states_and_changes_nothing() {
    let bench = Bench::start().await;
    let (good, away) = (bench.simulator.put_key(EMAIL, NAME, HERE), bench.simulator.put_key(EMAIL, NAME, "192.0.2.1"));
    let foreign = bench.simulator.put_key(EMAIL, "somebody-elses", HERE);
    let queue = bench.queue();
    let name = |token: &str| Fingerprint::of(token);
    queue.take_key(&name(&good.token), "run-of-the-test", minute()).await.unwrap();
    let learned = AimdState { ceiling: Some(18.0), ..AimdState::plain(17.0) };
    queue.remember_rate(&name(&good.token), learned).await.unwrap();
    queue.take_key(&name("configured.key"), "x", minute()).await.unwrap();
    queue.cool_down_key(&name("configured.key"), "x", "rejected: status 403, accessDenied", minute()).await.unwrap();

    let keys = bench.keys().await;
    let of = |token: &str| keys.iter().find(|key| key["key"] == name(token).to_string()).unwrap();
    assert_eq!(keys.len(), 4, "{keys:?}");
    assert_eq!((&of(&good.token)["state"], &of(&good.token)["run"]), (&"in_use".into(), &"run-of-the-test".into()));
    assert_eq!((&of(&good.token)["aimd_state"], &of(&good.token)["ceiling"]), (&17.0.into(), &18.0.into()));
    assert_eq!(
        (&of(&away.token)["state"], &of(&away.token)["addresses"][0]),
        (&"other_address".into(), &"192.0.2.1".into())
    );
    assert_eq!((&of(&foreign.token)["state"], &of(&foreign.token)["ours"]), (&"foreign".into(), &false.into()));
    let configured = of("configured.key");
    assert_eq!((&configured["state"], &configured["from"]), (&"rejected".into(), &"COC_API_TOKEN(S)".into()));
    assert_eq!(configured["reason"], "status 403, accessDenied");

    let text = bench.shell().run(&["keys", "list"]).await.well();
    assert!(text.contains("in use by run-of-the-test") && text.contains("17.0 (throttled at 18.0)"), "{text}");
    for secret in [&good.token, &away.token, &foreign.token] {
        assert!(!text.contains(secret.as_str()), "{text}");
    }
    assert_eq!(bench.simulator.portal_acts(), ["login", "list", "login", "list"], "nothing was changed");
}

#[tokio::test]
async fn keys_test_makes_one_call_per_key() {
    let bench = Bench::start().await;
    bench.simulator.put_key(EMAIL, NAME, HERE);
    let output = bench.shell().with("COC_API_TOKENS", "configured.key").run(&["keys", "test"]).await.well();
    assert_eq!((output.matches("works (test call").count(), bench.simulator.total_calls()), (2, 2), "{output}");
    bench.simulator.revoke_by_hand(&bench.simulator.portal_keys(EMAIL)[0].token);
    let ran = bench.shell().with("COC_API_TOKENS", "no.such.key").run(&["keys", "test"]).await;
    assert!(ran.code == 1 && ran.stdout.contains("the API rejects key"), "{ran:?}");
}

#[tokio::test]
async fn check_previews_logins_and_changes_nothing() {
    let bench = Bench::start().await;
    for number in 0..5 {
        bench.simulator.put_key(EMAIL, &format!("foreign-{number}"), HERE);
        // Those that production has, at its own address.
        bench.simulator.put_key(EMAIL, NAME, "192.0.2.1");
    }
    let before = bench.simulator.portal_keys(EMAIL);
    let shell = bench.shell().with("COC_KEY_COUNT", "5").with("DATABASE_URL", "postgresql://w:p@127.0.0.1:1/coc");
    for command in ["check", "keys test"] {
        let output = shell.run(&command.split(' ').collect::<Vec<_>>()).await.stdout;
        let would = "a run on this machine would keep 0 of our keys, create 5 and revoke 5 (nothing was changed)";
        assert!(output.contains(would), "{command}: {output}");
        assert!(output.contains("5 of our keys are bound to other addresses (192.0.2.1)"), "{command}: {output}");
    }
    assert_eq!(bench.simulator.portal_acts(), ["login", "list", "login", "list"]);
    // A run has one of them: that one would stay.
    bench.queue().take_key(&Fingerprint::of(&before[1].token), "run-of-production", minute()).await.unwrap();
    let output = shell.run(&["keys", "test"]).await.stdout;
    assert!(output.contains("would keep 0 of our keys, create 4 and revoke 4"), "{output}");
    assert_eq!(bench.simulator.portal_keys(EMAIL), before);
}

#[tokio::test]
async fn keys_test_shares_cooldowns_with_runs() {
    let bench = Bench::start().await;
    let shell = bench.shell().with("COC_EMAIL", "").with("COC_PASSWORD", "").with("COC_API_TOKENS", "away,busy,gone");
    for (token, what) in [
        ("away", Misbehaviour::InvalidIp),
        ("busy", Misbehaviour::Throttled { retry_after: None }),
        ("gone", Misbehaviour::InvalidAuthorization),
    ] {
        bench.simulator.misbehave(Rule::new(what).on_token(token));
    }
    let ran = shell.run(&["keys", "test"]).await;
    assert!(ran.code == 1 && ran.stdout.contains("throttled (429)"), "{ran:?}");
    let queue = bench.queue();
    let view = async |token: &str| queue.look_at_key(&Fingerprint::of(token)).await.unwrap();
    let busy = view("busy").await;
    assert_eq!(busy.holder, Holder::CoolingDown("throttled".to_owned()));
    assert_eq!(busy.aimd_state, None, "one call alone lowers no rate");
    let gone = view("gone").await;
    assert!(matches!(&gone.holder, Holder::CoolingDown(reason) if reason.starts_with("rejected: ")), "{gone:?}");
    let away = view("away").await;
    assert!(!matches!(away.holder, Holder::CoolingDown(_)), "it may be right where production is: {away:?}");
}

#[tokio::test]
async fn keys_renew_ignores_login_cooldowns() {
    let bench = Bench::start().await;
    bench.simulator.put_key(EMAIL, NAME, "192.0.2.1");
    bench.simulator.portal_trouble(Some(PortalTrouble::Temporary));
    let ran = bench.shell().run(&["keys", "renew"]).await;
    assert!(ran.code == 1 && ran.stdout.contains("it refuses for now: Temporary application error"), "{ran:?}");
    bench.simulator.portal_trouble(None);
    let output = bench.shell().with("COC_KEY_COUNT", "2").run(&["keys", "renew", "--json"]).await.well();
    let output: Value = serde_json::from_str(&output).unwrap();
    assert_eq!((&output["accounts"][0]["made"], &output["accounts"][0]["revoked"]), (&2.into(), &0.into()), "{output}");
    let again = bench.shell().run(&["keys", "renew"]).await.well();
    assert!(again.starts_with("COC_EMAIL: ") && again.contains("(0 created, 0 revoked)"), "{again}");
    assert_eq!(bench.simulator.portal_keys(EMAIL).len(), 3);
}

#[tokio::test]
async fn keys_prune_revokes_only_with_yes() {
    let bench = Bench::start().await;
    let kept = [("mine", HERE), ("foreign", "192.0.2.1")].map(|(name, cidr)| {
        let name = if name == "mine" { NAME } else { name };
        bench.simulator.put_key(EMAIL, name, cidr)
    });
    let away = bench.simulator.put_key(EMAIL, NAME, "192.0.2.1");
    let in_use = bench.simulator.put_key(EMAIL, NAME, "192.0.2.2");
    bench.queue().take_key(&Fingerprint::of(&in_use.token), "run", minute()).await.unwrap();

    let output = bench.shell().run(&["keys", "prune"]).await.well();
    let name = Fingerprint::of(&away.token).to_string();
    assert!(output.contains(&name) && output.contains("1 key of our name cannot be used here; --yes"), "{output}");
    assert_eq!(bench.simulator.portal_keys(EMAIL).len(), 4);
    let output = bench.shell().run(&["keys", "prune", "--yes"]).await.well();
    assert!(output.contains(&name) && output.ends_with("revoked 1 key\n"), "{output}");
    assert_eq!(bench.simulator.portal_keys(EMAIL), [&kept[..], &[in_use]].concat());
    let output = bench.shell().run(&["keys", "prune", "--yes"]).await.well();
    assert!(output.starts_with("nothing to revoke"), "{output}");
}

#[tokio::test]
async fn check_reports_every_account() {
    let bench = Bench::start().await;
    bench.simulator.put_key(EMAIL, NAME, "192.0.2.1");
    let shell = bench
        .shell()
        .with("DATABASE_URL", "postgresql://w:p@127.0.0.1:1/coc")
        .with("COC_EMAIL_2", "second@example.com")
        .with("COC_PASSWORD_2", "wrong-hunter2")
        .with("COC_ACCOUNTS", r#"[{"email": "third@example.com", "password": "thi,rd"}]"#)
        .with("EGRESS_IPS", "198.51.100.9");
    bench.simulator.open_account("second@example.com", "right");
    bench.simulator.open_account("third@example.com", "thi,rd");
    let output = shell.run(&["check"]).await.stdout;
    for part in [
        "account COC_EMAIL: a run on this machine would keep 0 of our keys, create 1 and revoke 0 (nothing was changed)",
        "account COC_EMAIL: the portal sees us at 203.0.113.7; it has 0 of our keys for this address, 1 for other addresses",
        "log in to the developer portal with COC_EMAIL_2: wrong e-mail or password",
        "account COC_ACCOUNTS[1]: a run on this machine would keep 0 of our keys, create 1 and revoke 0",
        "EGRESS_IPS does not contain 203.0.113.7",
    ] {
        assert!(output.contains(part), "{part}: {output}");
    }
    assert!(!output.contains("hunter2") && !output.contains("thi,rd") && !output.contains("example.com"), "{output}");
}

/// Whether the portal is down, refuses or hangs: runs go on as if nobody had looked.
#[tokio::test]
async fn failed_portal_check_delays_no_run() {
    for (trouble, password) in
        [(Some(PortalTrouble::Down), PASSWORD), (Some(PortalTrouble::Temporary), PASSWORD), (None, "wrong-horse")]
    {
        let bench = Bench::start().await;
        bench.simulator.portal_trouble(trouble);
        for command in [&["keys", "list"][..], &["keys", "test"], &["check"]] {
            let ran = bench.shell().with("COC_PASSWORD", password).run(command).await;
            assert!(ran.code == 1 && (ran.stdout + &ran.stderr).contains("COC_EMAIL"), "{command:?}");
            let left = bench.queue().shared_entries().await.unwrap();
            assert_eq!(left, [], "{trouble:?}, {command:?}");
        }
    }
}
