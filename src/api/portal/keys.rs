//! The keys of an account: what the portal lists, and what is kept, revoked and made of it. Pure functions of values.
//!
//! **Invariant: a key of another name is never touched**, and there are never more than [`MOST_KEYS`] in an account.

use std::{fmt, net::IpAddr};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

use crate::model::Fingerprint;

/// The most keys of an account, whoever made them.
pub const MOST_KEYS: usize = 10;

/// What keys there are to be in each account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedKeys {
    /// Ours are called so.
    pub name: String,
    pub count: usize,
    /// Our own addresses, when they are known; else the portal says which one it sees.
    pub addresses: Vec<IpAddr>,
}

/// A key as the portal lists it. What is missing or strange in it is left empty: a foreign key must not hide ours.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedKey {
    #[serde(default, deserialize_with = "if_possible")]
    pub id: String,
    #[serde(default, deserialize_with = "if_possible")]
    pub name: String,
    #[serde(default, deserialize_with = "if_possible")]
    pub cidr_ranges: Vec<String>,
    #[serde(default, deserialize_with = "if_possible_secret")]
    pub key: SecretString,
}

impl ListedKey {
    /// By which it goes in logs.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.key.expose_secret().trim())
    }

    /// Whether it has this name, and what it takes to use and to revoke it.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name == name && !self.id.is_empty() && !self.key.expose_secret().trim().is_empty()
    }

    /// Whether the API accepts it from all of these.
    #[must_use]
    pub fn is_good_for(&self, addresses: &[IpAddr]) -> bool {
        addresses.iter().all(|address| {
            self.cidr_ranges.iter().any(|range| {
                range
                    .trim_end_matches("/32")
                    .trim_end_matches("/128")
                    .parse::<IpAddr>()
                    .is_ok_and(|ours| ours == *address)
            })
        })
    }
}

impl fmt::Debug for ListedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ListedKey({} `{}` {:?})", self.fingerprint(), self.name, self.cidr_ranges)
    }
}

/// What is known of an account's keys beside what the portal lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The API does not accept them.
    pub refused: Vec<Fingerprint>,
    /// Other runs use them at this moment.
    pub in_use: Vec<Fingerprint>,
}

/// What is to be done in an account.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    pub keep: Vec<&'a ListedKey>,
    /// Ours, of no use to us, and in the way of those that are to be made.
    pub revoke: Vec<&'a ListedKey>,
    pub create: usize,
    /// More would be revoked if no run were using it.
    pub waits_for_runs: bool,
}

/// Keeps what is ours and good; makes what is missing; revokes of our own what is not good, as much as there is need for
/// room and no more: another sandbox of ours with another address may need it, and one that a run is using stays.
#[must_use]
pub fn plan<'a>(listed: &'a [ListedKey], wanted: &WantedKeys, addresses: &[IpAddr], known: &Known) -> Plan<'a> {
    let is_refused = |key: &ListedKey| known.refused.contains(&key.fingerprint());
    let (good, stale): (Vec<&ListedKey>, Vec<&ListedKey>) = listed
        .iter()
        .filter(|key| key.is_called(&wanted.name))
        .partition(|key| key.is_good_for(addresses) && !is_refused(key));
    let keep: Vec<&ListedKey> = good.into_iter().take(wanted.count).collect();
    let missing = wanted.count - keep.len();
    let room = MOST_KEYS.saturating_sub(listed.len());
    let (in_use, stale): (Vec<&ListedKey>, Vec<&ListedKey>) =
        stale.into_iter().partition(|key| known.in_use.contains(&key.fingerprint()));
    // What was refused is certainly of no use to anybody with our address.
    let (refused, other): (Vec<&ListedKey>, Vec<&ListedKey>) = stale.into_iter().partition(|key| is_refused(key));
    let revoke: Vec<&ListedKey> = refused.into_iter().chain(other).take(missing.saturating_sub(room)).collect();
    let create = missing.min(room + revoke.len());
    Plan { keep, revoke, create, waits_for_runs: create < missing && !in_use.is_empty() }
}

/// What is null or of another form than known counts as missing.
fn if_possible<'de, T: DeserializeOwned + Default, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).unwrap_or_default())
}

fn if_possible_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    if_possible::<String, D>(deserializer).map(SecretString::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "203.0.113.7";

    fn listed(keys: &[(&str, &str)]) -> Vec<ListedKey> {
        let key = |(at, (name, cidr)): (usize, &(&str, &str))| ListedKey {
            id: at.to_string(),
            name: (*name).to_owned(),
            cidr_ranges: vec![(*cidr).to_owned()],
            key: format!("token-{at}").into(),
        };
        keys.iter().enumerate().map(key).collect()
    }

    /// What is kept and revoked, by id, and how many are made.
    fn planned(listed: &[ListedKey], count: usize, refused: &[&str]) -> (Vec<String>, Vec<String>, usize) {
        let wanted = WantedKeys { name: "ours".to_owned(), count, addresses: Vec::new() };
        let refused: Vec<Fingerprint> = refused.iter().map(|token| Fingerprint::of(token)).collect();
        let known = Known { refused, in_use: vec![Fingerprint::of("token-in-use")] };
        let plan = plan(listed, &wanted, &[OURS.parse().unwrap()], &known);
        let ids = |keys: &[&ListedKey]| keys.iter().map(|key| key.id.clone()).collect();
        (ids(&plan.keep), ids(&plan.revoke), plan.create)
    }

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn keys_of_our_name_and_address_are_kept_with_and_without_a_mask() {
        let listed = listed(&[("ours", OURS), ("theirs", OURS), ("ours", "203.0.113.7/32"), ("ours", "198.51.100.1")]);
        assert_eq!(planned(&listed, 2, &[]), (ids(&["0", "2"]), ids(&[]), 0));
        assert_eq!(planned(&listed, 3, &[]), (ids(&["0", "2"]), ids(&[]), 1), "there is room: nothing is revoked");
    }

    #[test]
    fn only_our_own_keys_make_room_and_those_refused_first() {
        let mut keys = vec![("theirs", "198.51.100.1"); 7];
        keys.extend([("ours", "198.51.100.1"), ("ours", "198.51.100.2"), ("ours", OURS)]);
        let listed = listed(&keys);
        assert_eq!(planned(&listed, 2, &[]), (ids(&["9"]), ids(&["7"]), 1));
        assert_eq!(planned(&listed, 1, &["token-9"]), (ids(&[]), ids(&["9"]), 1));
        assert_eq!(planned(&listed, 10, &[]), (ids(&["9"]), ids(&["7", "8"]), 2));
    }

    #[test]
    fn what_a_run_is_using_stays_even_if_it_was_refused_here() {
        let mut keys = listed(&[("ours", "198.51.100.1"); 10]);
        keys[3].key = "token-in-use".into();
        let all_but_3: Vec<String> = (0..10).filter(|at| *at != 3).map(|at: usize| at.to_string()).collect();
        assert_eq!(planned(&keys, 10, &["token-in-use"]), (ids(&[]), all_but_3, 9));
        assert_eq!(planned(&keys, 1, &["token-in-use"]), (ids(&[]), ids(&["0"]), 1));
    }

    #[test]
    fn a_foreign_key_with_things_missing_hides_none_of_ours_and_takes_its_place() {
        let strange = [
            r#"{"id": "0", "name": null, "cidrRanges": null, "key": null}"#,
            r#"{"id": "1", "name": "theirs", "cidrRanges": "anywhere", "key": "k1"}"#,
            r#"{"name": "theirs"}"#,
            r#"{"id": "3", "name": "ours", "cidrRanges": ["203.0.113.7"]}"#,
            r#"{"id": 4, "name": "ours", "cidrRanges": ["203.0.113.7"], "key": "k4"}"#,
        ];
        let good = r#"{"id": "9", "name": "ours", "description": null, "cidrRanges": ["203.0.113.7/32"], "key": "k9"}"#;
        let listed: Vec<ListedKey> = serde_json::from_str(&format!("[{}, {good}]", strange.join(", "))).unwrap();
        assert_eq!(listed.len(), 6);
        // Those of our name that can be neither used nor revoked are left alone; all count against the ten.
        assert_eq!(planned(&listed, 10, &[]), (ids(&["9"]), ids(&[]), 4));
    }

    #[test]
    fn ten_foreign_keys_are_left_alone() {
        assert_eq!(planned(&listed(&[("theirs", OURS); 10]), 1, &[]), (ids(&[]), ids(&[]), 0));
    }

    #[test]
    fn a_listed_key_prints_no_token() {
        assert!(!format!("{:?}", listed(&[("ours", OURS)])).contains("token-0"));
    }
}
