//! What overlapping runs agree on: key slots, learned rates, days, circuits.

use std::time::Duration;

use refresh_worker::{
    clock::Timestamp,
    model::{AimdState, EndpointKind},
    queue::{
        CallsGranted, Circuit, CircuitReason, CircuitScope, Fingerprint, Holder, SharedState as _, Slot,
        record::QueueLimits,
    },
};

use super::beds::{Bed, NOW, on_all};

const MINUTE: Duration = Duration::from_secs(60);

on_all! {
    key_is_used_by_one_run
    own_slot_can_be_taken_again
    slot_is_free_without_renewals
    only_holder_renews_slot
    released_slot_is_free_after_interval
    late_renewal_cannot_retake_released_slot
    only_holder_releases_slot
    cooling_key_keeps_slot_with_reason
    only_holder_starts_cooldown
    later_refusal_only_lengthens_cooldown
    learned_rate_outlives_run_for_an_hour
    look_at_key_does_not_take_slot
    end_cooldown_ends_only_cooldowns
    take_calls_never_exceeds_quota
    returned_calls_serve_next_run
    reopened_circuit_keeps_since_and_later_probe
    circuits_are_listed_by_scope
    circuit_ends_after_an_hour_or_when_closed
    one_caller_claims_probe
}

fn key() -> Fingerprint {
    Fingerprint("0123456789ab".to_owned())
}

async fn take(bed: &impl Bed, run: &str) -> Slot {
    bed.queue().take_key(&key(), run, MINUTE).await.unwrap()
}

async fn renew(bed: &impl Bed, run: &str) -> bool {
    bed.queue().renew_keys(&[key()], run, MINUTE).await.unwrap() == [true]
}

const FREE: Slot = Slot::Taken { aimd_state: None };

fn is_held_for_at_most(slot: &Slot, most: Duration) -> bool {
    matches!(slot, Slot::Held { for_another } if *for_another <= most && *for_another > most / 4)
}

async fn key_is_used_by_one_run(bed: &impl Bed) {
    assert_eq!(take(bed, "a").await, FREE);
    assert!(is_held_for_at_most(&take(bed, "b").await, MINUTE));
    let other = Fingerprint("ba9876543210".to_owned());
    assert_eq!(bed.queue().take_key(&other, "b", MINUTE).await.unwrap(), FREE);
}

/// A run whose reply was lost asks for its slot again, and must get it.
async fn own_slot_can_be_taken_again(bed: &impl Bed) {
    assert_eq!(take(bed, "a").await, FREE);
    bed.pass(MINUTE / 2).await;
    assert_eq!(take(bed, "a").await, FREE);
    bed.pass(MINUTE / 2).await;
    assert!(matches!(take(bed, "b").await, Slot::Held { .. }), "it lasts from the second time");
    bed.queue().cool_down_key(&key(), "a", "throttled", MINUTE).await.unwrap();
    assert!(matches!(take(bed, "a").await, Slot::CoolingDown { .. }));
}

async fn slot_is_free_without_renewals(bed: &impl Bed) {
    take(bed, "a").await;
    bed.pass(MINUTE / 2).await;
    assert!(renew(bed, "a").await);
    bed.pass(MINUTE / 2).await;
    assert!(matches!(take(bed, "b").await, Slot::Held { .. }));
    bed.pass(MINUTE / 2).await;
    assert!(!renew(bed, "a").await);
    assert_eq!(take(bed, "b").await, FREE);
}

async fn only_holder_renews_slot(bed: &impl Bed) {
    take(bed, "a").await;
    let free = Fingerprint("ba9876543210".to_owned());
    assert_eq!(bed.queue().renew_keys(&[free.clone(), key()], "a", MINUTE).await.unwrap(), [false, true]);
    assert_eq!(bed.queue().renew_keys(&[free, key()], "b", MINUTE).await.unwrap(), [false, false]);
    assert!(bed.queue().renew_keys(&[], "a", MINUTE).await.unwrap().is_empty());
}

async fn released_slot_is_free_after_interval(bed: &impl Bed) {
    take(bed, "a").await;
    bed.queue().release_key(&key(), "a", MINUTE / 6).await.unwrap();
    assert!(is_held_for_at_most(&take(bed, "b").await, MINUTE / 6));
    bed.pass(MINUTE / 6).await;
    assert_eq!(take(bed, "b").await, FREE);
}

async fn late_renewal_cannot_retake_released_slot(bed: &impl Bed) {
    take(bed, "a").await;
    bed.queue().release_key(&key(), "a", MINUTE / 6).await.unwrap();
    assert!(!renew(bed, "a").await);
    bed.pass(MINUTE / 6).await;
    assert_eq!(take(bed, "b").await, FREE);
}

async fn only_holder_releases_slot(bed: &impl Bed) {
    take(bed, "a").await;
    bed.queue().release_key(&key(), "b", Duration::ZERO).await.unwrap();
    assert!(renew(bed, "a").await);
}

async fn cooling_key_keeps_slot_with_reason(bed: &impl Bed) {
    take(bed, "a").await;
    bed.queue().cool_down_key(&key(), "a", "throttled: 429", 2 * MINUTE).await.unwrap();
    bed.queue().release_key(&key(), "a", Duration::ZERO).await.unwrap();
    assert!(!renew(bed, "a").await);
    bed.pass(MINUTE).await;
    let Slot::CoolingDown { reason, for_another } = take(bed, "b").await else { panic!("the key rests") };
    assert_eq!(reason, "throttled: 429");
    assert!(for_another <= MINUTE && for_another > MINUTE / 4);
    bed.pass(MINUTE).await;
    assert_eq!(take(bed, "b").await, FREE);
}

async fn only_holder_starts_cooldown(bed: &impl Bed) {
    bed.queue().cool_down_key(&key(), "b", "x", MINUTE).await.unwrap();
    assert_eq!(take(bed, "a").await, FREE);
    bed.queue().cool_down_key(&key(), "b", "x", 9 * MINUTE).await.unwrap();
    assert!(renew(bed, "a").await);
}

async fn later_refusal_only_lengthens_cooldown(bed: &impl Bed) {
    take(bed, "a").await;
    bed.queue().cool_down_key(&key(), "a", "invalid_ip", 10 * MINUTE).await.unwrap();
    bed.queue().cool_down_key(&key(), "a", "throttled", MINUTE).await.unwrap();
    assert!(matches!(take(bed, "b").await, Slot::CoolingDown { reason, .. } if reason == "invalid_ip"));
    bed.queue().cool_down_key(&key(), "a", "banned", 20 * MINUTE).await.unwrap();
    bed.pass(15 * MINUTE).await;
    assert!(matches!(take(bed, "b").await, Slot::CoolingDown { reason, .. } if reason == "banned"));
}

async fn learned_rate_outlives_run_for_an_hour(bed: &impl Bed) {
    let learned =
        AimdState { rate: 14.775, ceiling: Some(17.5), failed_probes: 3, changed: NOW, refused_until: NOW - MINUTE };
    bed.queue().remember_rate(&key(), learned).await.unwrap();
    bed.pass(59 * MINUTE).await;
    assert_eq!(take(bed, "a").await, Slot::Taken { aimd_state: Some(learned) });
    bed.pass(MINUTE).await;
    assert_eq!(take(bed, "b").await, FREE);
}

async fn look_at_key_does_not_take_slot(bed: &impl Bed) {
    let queue = bed.queue();
    let look = async || queue.look_at_key(&key()).await.unwrap();
    assert_eq!(look().await.holder, Holder::Nobody);
    take(bed, "a").await;
    queue.remember_rate(&key(), AimdState::plain(7.5)).await.unwrap();
    let view = look().await;
    assert_eq!((view.holder, view.aimd_state), (Holder::Run("a".to_owned()), Some(AimdState::plain(7.5))));
    assert!(view.for_another <= MINUTE && view.for_another > MINUTE / 4, "{:?}", view.for_another);
    queue.cool_down_key(&key(), "a", "rejected: 403", MINUTE).await.unwrap();
    assert_eq!(look().await.holder, Holder::CoolingDown("rejected: 403".to_owned()));
    bed.pass(MINUTE).await;
    take(bed, "b").await;
    queue.release_key(&key(), "b", MINUTE).await.unwrap();
    assert_eq!(look().await.holder, Holder::Released);
}

async fn end_cooldown_ends_only_cooldowns(bed: &impl Bed) {
    assert!(!bed.queue().end_cooldown(&key()).await.unwrap());
    take(bed, "a").await;
    assert!(!bed.queue().end_cooldown(&key()).await.unwrap());
    assert!(renew(bed, "a").await, "whoever holds it keeps it");
    bed.queue().cool_down_key(&key(), "a", "wrong password", MINUTE).await.unwrap();
    assert!(bed.queue().end_cooldown(&key()).await.unwrap());
    assert_eq!(take(bed, "b").await, FREE);
}

async fn take_calls_never_exceeds_quota(bed: &impl Bed) {
    let (queue, day) = (bed.queue(), NOW.midnight());
    let asked = futures_util::future::join_all((0..20).map(|_| queue.take_calls(day, 7, 100))).await;
    let granted: u64 = asked.iter().map(|answer| answer.as_ref().unwrap().granted).sum();
    assert_eq!((granted, queue.calls_taken(day).await.unwrap()), (100, 100));
    assert_eq!(queue.take_calls(day, 1, 100).await.unwrap(), CallsGranted { granted: 0, taken: 100 });
    assert_eq!(queue.take_calls(day, 5, 50).await.unwrap().granted, 0, "a limit that was lowered meanwhile");
    assert_eq!(queue.take_calls(day, 5, 103).await.unwrap(), CallsGranted { granted: 3, taken: 103 });
}

/// Each day has a count of its own.
async fn returned_calls_serve_next_run(bed: &impl Bed) {
    let (queue, day) = (bed.queue(), NOW.midnight());
    queue.take_calls(day, 10, 10).await.unwrap();
    queue.return_calls(day, 4).await.unwrap();
    assert_eq!(queue.take_calls(day, 10, 10).await.unwrap(), CallsGranted { granted: 4, taken: 10 });
    let next = day + 24 * 60 * MINUTE;
    assert_eq!(queue.take_calls(next, 10, 10).await.unwrap(), CallsGranted { granted: 10, taken: 10 });
    queue.return_calls(day, 99).await.unwrap();
    assert_eq!(queue.calls_taken(day).await.unwrap(), 0, "never below nothing");
    queue.return_calls(next + 24 * 60 * MINUTE, 5).await.unwrap();
    assert_eq!(queue.calls_taken(next).await.unwrap(), 10);
}

fn circuit(since: Timestamp, next_probe: Timestamp, code: &str) -> Circuit {
    Circuit { scope: CircuitScope::Api, since, next_probe, reason: CircuitReason::new(code, "status 503, sorry") }
}

async fn reopened_circuit_keeps_since_and_later_probe(bed: &impl Bed) {
    let queue = bed.queue();
    assert_eq!(queue.circuits().await.unwrap(), []);
    queue.open_circuit(&circuit(NOW, NOW + MINUTE, "maintenance")).await.unwrap();
    queue.open_circuit(&circuit(NOW + MINUTE, NOW + 2 * MINUTE, "unreachable")).await.unwrap();
    assert_eq!(queue.circuits().await.unwrap(), [circuit(NOW, NOW + 2 * MINUTE, "unreachable")]);
    queue.open_circuit(&circuit(NOW, NOW + MINUTE, "maintenance")).await.unwrap();
    let open = [circuit(NOW, NOW + 2 * MINUTE, "maintenance")];
    assert_eq!(queue.circuits().await.unwrap(), open, "a probe is not moved back");
}

async fn circuits_are_listed_by_scope(bed: &impl Bed) {
    let queue = bed.queue();
    let of = |scope| Circuit { scope, ..circuit(NOW, NOW + MINUTE, "failing") };
    for scope in CircuitScope::ALL.into_iter().rev() {
        assert_eq!(CircuitScope::parse(scope.as_str()), Some(scope));
        queue.open_circuit(&of(scope)).await.unwrap();
    }
    assert_eq!(CircuitScope::parse("nothing"), None);
    assert_eq!(queue.circuits().await.unwrap(), CircuitScope::ALL.map(of));
    queue.close_circuit(CircuitScope::Api).await.unwrap();
    let war = CircuitScope::Endpoint(EndpointKind::CurrentWar);
    assert!(queue.claim_probe(war, NOW + MINUTE, NOW + 2 * MINUTE).await.unwrap());
    let open = queue.circuits().await.unwrap();
    assert_eq!(open.len(), 5);
    for circuit in open {
        let probe = if circuit.scope == war { NOW + 2 * MINUTE } else { NOW + MINUTE };
        assert_eq!(circuit.next_probe, probe, "{}", circuit.scope);
    }
}

async fn circuit_ends_after_an_hour_or_when_closed(bed: &impl Bed) {
    let queue = bed.queue();
    queue.open_circuit(&circuit(NOW, NOW, "maintenance")).await.unwrap();
    bed.pass(59 * MINUTE).await;
    assert_eq!(queue.circuits().await.unwrap().len(), 1);
    queue.open_circuit(&circuit(NOW, NOW, "maintenance")).await.unwrap();
    bed.pass(59 * MINUTE).await;
    assert_eq!(queue.circuits().await.unwrap().len(), 1, "opened anew, it lives an hour from then");
    bed.pass(MINUTE).await;
    assert_eq!(queue.circuits().await.unwrap(), []);
    queue.open_circuit(&circuit(NOW, NOW, "maintenance")).await.unwrap();
    queue.close_circuit(CircuitScope::Api).await.unwrap();
    assert_eq!(queue.circuits().await.unwrap(), []);
}

async fn one_caller_claims_probe(bed: &impl Bed) {
    let queue = bed.queue();
    let claim = |seen, next| queue.claim_probe(CircuitScope::Api, seen, next);
    assert!(!claim(NOW, NOW + MINUTE).await.unwrap(), "there is none");
    queue.open_circuit(&circuit(NOW, NOW, "maintenance")).await.unwrap();
    let claims = tokio::join!(claim(NOW, NOW + MINUTE), claim(NOW, NOW + MINUTE));
    assert_eq!(usize::from(claims.0.unwrap()) + usize::from(claims.1.unwrap()), 1);
    assert!(claim(NOW + MINUTE, NOW + 2 * MINUTE).await.unwrap());
    assert_eq!(queue.circuits().await.unwrap(), [circuit(NOW, NOW + 2 * MINUTE, "maintenance")]);
}
