//! Whose fault a refusal is: the record's, or that of the table it goes to. Pure; no store here, only what stores report.
//!
//! A record is a poison only on evidence: its error is of the kind that records have, and others of its kind were stored by
//! the same statements, with it or since it was first refused. What might be the table's fault is held, however often, until
//! something is stored. When it shows up for everything that is tried, it is the store's trouble, and a run ends.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    clock::Timestamp,
    model::{Kind, ObjectId, Reason},
};

/// When this many records are refused alike, and nothing of their kind is stored, the fault is not theirs.
const SUSPICIOUS_FAILURES: usize = 5;

/// The same for an error that no record can be the cause of. A single one may be in the one broken part of a table.
const SUSPICIOUS_TABLE_FAILURES: usize = 2;

/// A refusal says nothing of the table any more after this long.
const SUSPECTED_FOR: Duration = Duration::from_secs(600);

/// Records that were refused and wait for evidence, remembered at most.
const REMEMBERED: usize = 1000;

/// Whose fault an error can be, judged by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blame {
    /// The record's: it is broken in itself, such as a document that is not JSON.
    Record,
    /// The record's or the table's: a constraint, a trigger, a width.
    Either,
    /// The table's, or one part's of it: a partition that is missing, a column of others that must not be null.
    Table,
}

/// Why a store refused one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub blame: Blame,
    /// Equal for errors that are alike: the code, and what it is about.
    pub signature: String,
    pub reason: Reason,
}

impl Fault {
    /// How many refusals of this sort, with nothing stored, show that it is not the records' fault.
    pub const fn enough(&self) -> usize {
        match self.blame {
            Blame::Table => SUSPICIOUS_TABLE_FAILURES,
            Blame::Record | Blame::Either => SUSPICIOUS_FAILURES,
        }
    }
}

/// What becomes of a record that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// A dead letter.
    Poison,
    /// Returned with nothing counted, and tried again.
    Hold,
}

/// What the commits of a process have shown so far.
#[derive(Debug, Default)]
pub struct Refusals {
    /// Records stored, by kind.
    goods: BTreeMap<Kind, u64>,
    /// Records refused alike since the last one of their kind was stored, and when.
    suspicions: BTreeMap<(Kind, String), BTreeMap<ObjectId, Timestamp>>,
    /// How many of its kind had been stored when a record was refused first.
    first_refused: BTreeMap<ObjectId, u64>,
    /// Of the last commit that had something new, nothing was stored, of no kind.
    stores_nothing: bool,
}

/// What follows from the refusals of one commit.
#[derive(Debug, PartialEq, Eq)]
pub struct Judged {
    /// Of each refused record, in the order given.
    pub rulings: Vec<FailureClass>,
    /// Set when it is the store's trouble: which of the refusals shows it.
    pub trouble: Option<usize>,
}

impl Refusals {
    /// Takes in a commit: the objects that new rows were written for, and those that were refused.
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
            suspects.retain(|_, at| *at + SUSPECTED_FOR > now);
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
        let mut judged = Judged { rulings: Vec::with_capacity(refused.len()), trouble: None };
        for (place, (object, fault)) in refused.iter().enumerate() {
            let (stored, alike) = (stored_now.get(&object.kind).copied().unwrap_or(0), alike(object, fault));
            let goods = self.goods.get(&object.kind).copied().unwrap_or(0);
            let since = goods - self.first_refused.get(object).copied().unwrap_or(goods).min(goods);
            let is_alone = match fault.blame {
                Blame::Record => stored > 0 || alike < SUSPICIOUS_FAILURES,
                // Of many that are refused alike a few good ones prove little.
                Blame::Either => stored >= alike || since >= alike as u64,
                Blame::Table => false,
            };
            if is_alone {
                self.first_refused.remove(object);
                judged.rulings.push(FailureClass::Poison);
                continue;
            }
            judged.rulings.push(FailureClass::Hold);
            if self.first_refused.len() < REMEMBERED {
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

    /// True while the last commits were refused and stored nothing. One kind that is refused does not slow down the others.
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

    fn judge(refusals: &mut Refusals, stored: &[ObjectId], refused: &[(ObjectId, Fault)]) -> (Vec<FailureClass>, bool) {
        let judged = refusals.judge(at(0), stored.iter(), refused);
        (judged.rulings, judged.trouble.is_some())
    }

    #[test]
    fn one_refused_among_stored_ones_is_a_poison() {
        let stored = [player(1), player(2)];
        let one = refused(Blame::Either, 7..8);
        assert_eq!(judge(&mut Refusals::default(), &stored, &one), (vec![FailureClass::Poison], false));
        let table = refused(Blame::Table, 7..8);
        assert_eq!(judge(&mut Refusals::default(), &stored, &table), (vec![FailureClass::Hold], false));
    }

    #[test]
    fn another_kind_that_is_stored_proves_nothing() {
        let one = refused(Blame::Either, 7..8);
        assert_eq!(judge(&mut Refusals::default(), &[clan()], &one), (vec![FailureClass::Hold], false));
    }

    #[test]
    fn a_record_alone_is_held_until_another_is_stored() {
        let mut refusals = Refusals::default();
        let one = refused(Blame::Either, 7..8);
        for _ in 0..9 {
            assert_eq!(judge(&mut refusals, &[], &one), (vec![FailureClass::Hold], false));
        }
        assert!(refusals.is_suspicious());
        judge(&mut refusals, &[player(1)], &[]);
        assert!(!refusals.is_suspicious());
        assert_eq!(judge(&mut refusals, &[], &one), (vec![FailureClass::Poison], false));
    }

    #[test]
    fn what_was_stored_before_is_no_evidence() {
        let mut refusals = Refusals::default();
        judge(&mut refusals, &[player(1), player(2)], &[]);
        assert_eq!(judge(&mut refusals, &[], &refused(Blame::Either, 7..8)), (vec![FailureClass::Hold], false));
    }

    #[test]
    fn refusals_of_all_add_up_over_commits_to_the_stores_trouble() {
        let mut refusals = Refusals::default();
        for number in 0..4 {
            let (_, trouble) = judge(&mut refusals, &[clan()], &refused(Blame::Either, number..number + 1));
            assert!(!trouble);
        }
        assert_eq!(judge(&mut refusals, &[], &refused(Blame::Either, 4..5)), (vec![FailureClass::Hold], true));
        let mut refusals = Refusals::default();
        judge(&mut refusals, &[], &refused(Blame::Table, 0..1));
        assert_eq!(judge(&mut refusals, &[], &refused(Blame::Table, 1..2)), (vec![FailureClass::Hold], true));
    }

    #[test]
    fn refusals_of_long_ago_are_no_trouble_of_today() {
        let mut refusals = Refusals::default();
        refusals.judge(at(0), [].iter(), &refused(Blame::Table, 0..1));
        assert_eq!(refusals.judge(at(601), [].iter(), &refused(Blame::Table, 1..2)).trouble, None);
    }

    #[test]
    fn a_refused_kind_is_no_doubt_once_another_is_stored() {
        let mut refusals = Refusals::default();
        judge(&mut refusals, &[], &refused(Blame::Either, 7..8));
        assert!(refusals.is_suspicious());
        judge(&mut refusals, &[clan()], &[]);
        assert!(!refusals.is_suspicious());
        judge(&mut refusals, &[clan()], &refused(Blame::Either, 8..9));
        assert!(!refusals.is_suspicious());
    }

    #[test]
    fn many_refused_alike_beside_a_single_good_one_are_held() {
        let (rulings, trouble) = judge(&mut Refusals::default(), &[player(90)], &refused(Blame::Either, 0..9));
        assert_eq!((rulings, trouble), (vec![FailureClass::Hold; 9], false));
    }

    #[test]
    fn a_broken_record_is_a_poison_unless_all_are() {
        let one = refused(Blame::Record, 0..1);
        assert_eq!(judge(&mut Refusals::default(), &[], &one), (vec![FailureClass::Poison], false));
        let (rulings, trouble) = judge(&mut Refusals::default(), &[], &refused(Blame::Record, 0..5));
        assert_eq!((rulings, trouble), (vec![FailureClass::Hold; 5], true));
    }
}
