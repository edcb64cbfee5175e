//! Refusals of the database: the fault of the record, or of its table. Pure decisions from what stores report.
//!
//! A record is poison only on evidence: its error can be its own, and the same statements stored others of its kind, in the
//! same batch or since its first refusal. A refusal that may be the table's fault holds the record until something is stored.
//! When everything is refused alike, the store is in trouble, and the run ends.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    clock::Timestamp,
    model::{Kind, ObjectId, Reason},
};

/// This many records refused alike, with none of their kind stored, are not at fault.
const SUSPICIOUS_FAILURES: usize = 5;

/// The same for an error that no record can cause. A single one may belong to the broken part of a table.
const SUSPICIOUS_TABLE_FAILURES: usize = 2;

/// A refusal is evidence about its table for this long.
const SUSPICION_LIFETIME: Duration = Duration::from_secs(600);

/// At most this many refused records are remembered until there is evidence.
const MAX_REMEMBERED: usize = 1000;

/// The possible culprit of an error, judged by the error alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blame {
    /// The record: it is broken in itself, such as a document that is not JSON.
    Record,
    /// The record or the table: a constraint, a trigger, a width.
    Either,
    /// The table or a part of it: a missing partition, a column of another program that must not be null.
    Table,
}

/// The reason why a store refused a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub blame: Blame,
    /// Equal for errors that are alike: the code, and the table, column and constraint.
    pub signature: String,
    pub reason: Reason,
}

impl Fault {
    /// This many such refusals, with nothing stored, show that the records are not at fault.
    pub const fn enough(&self) -> usize {
        match self.blame {
            Blame::Table => SUSPICIOUS_TABLE_FAILURES,
            Blame::Record | Blame::Either => SUSPICIOUS_FAILURES,
        }
    }
}

/// The fate of a refused record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It becomes a dead letter.
    Poison,
    /// It is released and tried again; no attempt is counted.
    Hold,
}

/// The evidence from the commits of this process.
#[derive(Debug, Default)]
pub struct Refusals {
    /// Records stored, by kind.
    goods: BTreeMap<Kind, u64>,
    /// Records refused alike, with the time, since the last one of their kind was stored.
    suspicions: BTreeMap<(Kind, String), BTreeMap<ObjectId, Timestamp>>,
    /// The number of stored records of its kind when a record was first refused.
    first_refused: BTreeMap<ObjectId, u64>,
    /// The last commit with new content stored nothing of any kind.
    stores_nothing: bool,
}

/// The judgement on the refusals of a commit.
#[derive(Debug, PartialEq, Eq)]
pub struct Judged {
    /// The fate of each refused record, in the order given.
    pub fates: Vec<Fate>,
    /// Set when the store is in trouble: the index of a refusal that shows it.
    pub trouble: Option<usize>,
}

impl Refusals {
    /// Judges a commit by the objects that got new rows and those that were refused.
    pub fn judge<'a>(
        &mut self,
        now: Timestamp,
        stored: impl Iterator<Item = &'a ObjectId>,
        refused: &[(ObjectId, Fault)],
    ) -> Judged {
        let mut stored_now: BTreeMap<Kind, usize> = BTreeMap::new();
        for object in stored {
            *stored_now.entry(object.kind).or_default() += 1;
            *self.goods.entry(object.kind).or_default() += 1;
            self.first_refused.remove(object);
        }
        self.suspicions.retain(|(kind, _), suspects| {
            suspects.retain(|_, at| *at + SUSPICION_LIFETIME > now);
            !suspects.is_empty() && !stored_now.contains_key(kind)
        });
        if !stored_now.is_empty() {
            self.stores_nothing = false;
        }
        let alike = |object: &ObjectId, fault: &Fault| {
            let same = |(other, of_other): &&(ObjectId, Fault)| {
                other.kind == object.kind && of_other.signature == fault.signature
            };
            refused.iter().filter(same).count()
        };
        let mut judged = Judged { fates: Vec::with_capacity(refused.len()), trouble: None };
        for (place, (object, fault)) in refused.iter().enumerate() {
            let (stored, alike) = (stored_now.get(&object.kind).copied().unwrap_or(0), alike(object, fault));
            let goods = self.goods.get(&object.kind).copied().unwrap_or(0);
            // Records of its kind stored since its first refusal.
            let since = goods - self.first_refused.get(object).copied().unwrap_or(goods).min(goods);
            let is_alone = match fault.blame {
                Blame::Record => stored > 0 || alike < SUSPICIOUS_FAILURES,
                // A few stored records prove little when many are refused alike.
                Blame::Either => stored >= alike || since >= alike as u64,
                Blame::Table => false,
            };
            if is_alone {
                self.first_refused.remove(object);
                judged.fates.push(Fate::Poison);
                continue;
            }
            judged.fates.push(Fate::Hold);
            // Without an entry a record is held longer, never poisoned earlier.
            if self.first_refused.len() < MAX_REMEMBERED {
                self.first_refused.entry(object.clone()).or_insert(goods);
            }
            self.stores_nothing |= stored_now.is_empty();
            if stored == 0 {
                let suspects = self.suspicions.entry((object.kind, fault.signature.clone())).or_default();
                suspects.insert(object.clone(), now);
                if suspects.len() >= fault.enough() {
                    judged.trouble = Some(place);
                }
            }
        }
        judged
    }

    /// True while the last commits were refused and stored nothing. A single refused kind does not slow down the others.
    pub const fn is_suspicious(&self) -> bool {
        self.stores_nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn player(number: usize) -> ObjectId {
        let digit = |at: usize| "0289PYLQGR".as_bytes()[at % 10] as char;
        format!("player:{}{}{}", digit(number / 10 + 1), digit(number), 'P').parse().unwrap()
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_772_600_000_000) + Duration::from_secs(seconds)
    }

    fn clan() -> ObjectId {
        "clan:2PP".parse().unwrap()
    }

    fn fault(blame: Blame, signature: &str) -> Fault {
        Fault { blame, signature: signature.to_owned(), reason: Reason::new("refused_by_database", signature) }
    }

    fn refused(blame: Blame, numbers: std::ops::Range<usize>) -> Vec<(ObjectId, Fault)> {
        numbers.map(|number| (player(number), fault(blame, "same"))).collect()
    }

    fn judge(refusals: &mut Refusals, stored: &[ObjectId], refused: &[(ObjectId, Fault)]) -> (Vec<Fate>, bool) {
        let judged = refusals.judge(at(0), stored.iter(), refused);
        (judged.fates, judged.trouble.is_some())
    }

    #[test]
    fn one_refused_among_stored_is_poison() {
        let stored = [player(1), player(2)];
        let one = refused(Blame::Either, 7..8);
        assert_eq!(judge(&mut Refusals::default(), &stored, &one), (vec![Fate::Poison], false));
        let table = refused(Blame::Table, 7..8);
        assert_eq!(judge(&mut Refusals::default(), &stored, &table), (vec![Fate::Hold], false));
    }

    #[test]
    fn other_stored_kind_proves_nothing() {
        let one = refused(Blame::Either, 7..8);
        assert_eq!(judge(&mut Refusals::default(), &[clan()], &one), (vec![Fate::Hold], false));
    }

    #[test]
    fn lone_record_held_until_another_stored() {
        let mut refusals = Refusals::default();
        let one = refused(Blame::Either, 7..8);
        for _ in 0..9 {
            assert_eq!(judge(&mut refusals, &[], &one), (vec![Fate::Hold], false));
        }
        assert!(refusals.is_suspicious());
        judge(&mut refusals, &[player(1)], &[]);
        assert!(!refusals.is_suspicious());
        assert_eq!(judge(&mut refusals, &[], &one), (vec![Fate::Poison], false));
    }

    #[test]
    fn earlier_stored_records_are_not_evidence() {
        let mut refusals = Refusals::default();
        judge(&mut refusals, &[player(1), player(2)], &[]);
        assert_eq!(judge(&mut refusals, &[], &refused(Blame::Either, 7..8)), (vec![Fate::Hold], false));
    }

    #[test]
    fn refusals_add_up_to_store_trouble() {
        let mut refusals = Refusals::default();
        for number in 0..4 {
            let (_, trouble) = judge(&mut refusals, &[clan()], &refused(Blame::Either, number..number + 1));
            assert!(!trouble);
        }
        assert_eq!(judge(&mut refusals, &[], &refused(Blame::Either, 4..5)), (vec![Fate::Hold], true));
        let mut refusals = Refusals::default();
        judge(&mut refusals, &[], &refused(Blame::Table, 0..1));
        assert_eq!(judge(&mut refusals, &[], &refused(Blame::Table, 1..2)), (vec![Fate::Hold], true));
    }

    #[test]
    fn old_refusals_are_not_trouble() {
        let mut refusals = Refusals::default();
        refusals.judge(at(0), [].iter(), &refused(Blame::Table, 0..1));
        assert_eq!(refusals.judge(at(601), [].iter(), &refused(Blame::Table, 1..2)).trouble, None);
    }

    #[test]
    fn refused_kind_unsuspicious_once_another_stored() {
        let mut refusals = Refusals::default();
        judge(&mut refusals, &[], &refused(Blame::Either, 7..8));
        assert!(refusals.is_suspicious());
        judge(&mut refusals, &[clan()], &[]);
        assert!(!refusals.is_suspicious());
        judge(&mut refusals, &[clan()], &refused(Blame::Either, 8..9));
        assert!(!refusals.is_suspicious());
    }

    #[test]
    fn many_refused_beside_one_stored_held() {
        let (fates, trouble) = judge(&mut Refusals::default(), &[player(90)], &refused(Blame::Either, 0..9));
        assert_eq!((fates, trouble), (vec![Fate::Hold; 9], false));
    }

    #[test]
    fn broken_record_is_poison_unless_all_are() {
        let one = refused(Blame::Record, 0..1);
        assert_eq!(judge(&mut Refusals::default(), &[], &one), (vec![Fate::Poison], false));
        let (fates, trouble) = judge(&mut Refusals::default(), &[], &refused(Blame::Record, 0..5));
        assert_eq!((fates, trouble), (vec![Fate::Hold; 5], true));
    }
}
