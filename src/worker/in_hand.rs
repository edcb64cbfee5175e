//! The requests that a run has in hand, each with the newest token of its lease. Values only.
//!
//! A server that lost its latest writes leases an object anew to the run that has it in hand already. No second call is made for
//! it: the lease only carries a newer token, and the request is settled with that.

use std::collections::HashMap;

use parking_lot::{Mutex, MutexGuard};

use crate::{
    model::ObjectId,
    queue::{Lease, LeaseToken, Settled, Settlement},
};

/// The leases of a run that are not settled yet.
#[derive(Debug, Default)]
pub struct InHand(Mutex<HashMap<ObjectId, LeaseToken>>);

impl InHand {
    /// Takes leases in hand. Returns those whose object was not in hand.
    pub fn take(&self, leases: Vec<Lease>) -> Vec<Lease> {
        let mut tokens = self.tokens();
        let is_new = |lease: &Lease| tokens.insert(lease.object.clone(), lease.token.clone()).is_none();
        leases.into_iter().filter(is_new).collect()
    }

    pub fn has(&self, object: &ObjectId) -> bool {
        self.tokens().contains_key(object)
    }

    /// Everything in hand, to be renewed.
    pub fn all(&self) -> Vec<(ObjectId, LeaseToken)> {
        self.tokens().iter().map(|(object, token)| (object.clone(), token.clone())).collect()
    }

    /// Puts the newest tokens into what is to be settled.
    pub fn bring_tokens(&self, settlements: &mut [(Lease, Settlement)]) {
        let tokens = self.tokens();
        for (lease, _) in settlements {
            if let Some(token) = tokens.get(&lease.object) {
                lease.token = token.clone();
            }
        }
    }

    /// Lets go of what was settled. Returns what was leased anew meanwhile, with its place in the batch. With the newer token it is
    /// settled likewise when the older lease was lost, and released when that was still good.
    pub fn let_go(
        &self,
        settlements: &[(Lease, Settlement)],
        settled: &[Settled],
    ) -> Vec<(usize, (Lease, Settlement))> {
        let mut tokens = self.tokens();
        let mut anew = Vec::new();
        for (place, ((lease, settlement), settled)) in settlements.iter().zip(settled).enumerate() {
            let Some(token) = tokens.remove(&lease.object).filter(|token| *token != lease.token) else { continue };
            let settlement = if *settled == Settled::LeaseLost { settlement.clone() } else { Settlement::Release };
            anew.push((place, (Lease { token, ..lease.clone() }, settlement)));
        }
        anew
    }

    /// A holder that panicked left whole values.
    fn tokens(&self) -> MutexGuard<'_, HashMap<ObjectId, LeaseToken>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Timestamp, model::Priority};

    fn lease(object: &str, token: &str) -> Lease {
        let now = Timestamp::from_millis(1_772_600_767_089);
        Lease {
            object: object.parse().unwrap(),
            token: LeaseToken(token.to_owned()),
            merges: 1,
            priority: Priority::High,
            first_requested: now,
            last_requested: now,
            attempts: 0,
            lapses: 0,
            held: 0,
            held_for: None,
            asked: None,
            planned: false,
            expires: now,
        }
    }

    fn tokens(leases: &[Lease]) -> Vec<&str> {
        leases.iter().map(|lease| lease.token.0.as_str()).collect()
    }

    #[test]
    fn object_in_hand_is_not_taken_again() {
        let hand = InHand::default();
        assert_eq!(tokens(&hand.take(vec![lease("clan:2PP", "a"), lease("clan:2QQ", "b")])), ["a", "b"]);
        assert_eq!(tokens(&hand.take(vec![lease("clan:2PP", "c"), lease("clan:2LL", "d")])), ["d"]);
        let mut batch = [(lease("clan:2PP", "a"), Settlement::Done), (lease("clan:2QQ", "b"), Settlement::Done)];
        hand.bring_tokens(&mut batch);
        assert_eq!([&batch[0].0.token.0, &batch[1].0.token.0], ["c", "b"]);
        assert!(hand.let_go(&batch, &[Settled::Settled; 2]).is_empty());
        assert_eq!(hand.all(), [("clan:2LL".parse().unwrap(), LeaseToken("d".to_owned()))]);
        assert_eq!(tokens(&hand.take(vec![lease("clan:2PP", "e")])), ["e"], "it was let go");
    }

    #[test]
    fn token_that_arrives_during_settlement_is_settled() {
        for (settled, then) in [(Settled::LeaseLost, Settlement::Done), (Settled::Settled, Settlement::Release)] {
            let hand = InHand::default();
            hand.take(vec![lease("clan:2PP", "a")]);
            hand.take(vec![lease("clan:2PP", "b")]);
            let anew = hand.let_go(&[(lease("clan:2PP", "a"), Settlement::Done)], &[settled]);
            let [(0, (lease, settlement))] = &anew[..] else { panic!("{anew:?}") };
            assert_eq!((lease.token.0.as_str(), settlement), ("b", &then));
            assert!(hand.all().is_empty());
        }
    }
}
