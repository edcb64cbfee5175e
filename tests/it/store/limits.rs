//! Calls with a limit end at the limit.

use std::time::Duration;

use refresh_worker::{
    model::ObjectId,
    store::{Committed, RELAXED_TIMEOUT, Store, StoreError},
};

use super::{
    Bed, beds,
    documents::{at, clan, player, tag},
    over_every_store,
};

over_every_store! {
    commit_without_time_left_does_not_begin,
}

async fn commit_without_time_left_does_not_begin(bed: impl Bed) {
    let batch = [clan("8GG").with([player("2PP")]).fetched(at(0))];
    let error = bed.store().commit_and_delete(at(1), &batch, &[], Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, StoreError::OutOfTime { .. }), "{error}");
    assert!(error.to_string().starts_with("cannot store a batch in the database at "), "{error}");
    assert!(error.to_string().ends_with(": no time was left"), "{error}");
    assert_eq!(bed.count("clans WHERE tag = '8GG'").await, 0);
    let error = bed.store().freshness(&[batch[0].object.clone()], Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, StoreError::OutOfTime { .. }), "{error}");
    assert_eq!(bed.commit(&batch).await, [Committed::Stored]);
}

/// Longer than connecting takes on a busy machine, and far less than a statement may take.
const SHORT: Duration = Duration::from_millis(700);

#[tokio::test]
async fn blocked_commit_ends_at_limit_then_works() {
    let bed = beds::postgres().await;
    let batch = [player("2PP").fetched(at(0))];
    let mut others = bed.around.begin().await.unwrap();
    sqlx::query("LOCK TABLE players").execute(&mut *others).await.unwrap();
    let error = bed.store().commit_and_delete(at(1), &batch, &[], SHORT).await.unwrap_err();
    assert!(matches!(error, StoreError::OutOfTime { .. }), "{error}");
    others.rollback().await.unwrap();
    assert_eq!(
        bed.store().commit_and_delete(at(1), &batch, &[], RELAXED_TIMEOUT).await.unwrap().committed,
        [Committed::Stored]
    );
}

#[tokio::test]
async fn blocked_freshness_read_ends_at_limit() {
    let bed = beds::postgres().await;
    bed.commit_one(player("2PP").fetched(at(0))).await;
    let objects = [ObjectId::player(tag("2PP"))];
    let mut others = bed.around.begin().await.unwrap();
    sqlx::query("LOCK TABLE refresh_worker.refresh_state").execute(&mut *others).await.unwrap();
    let error = bed.store().freshness(&objects, SHORT).await.unwrap_err();
    assert!(matches!(error, StoreError::OutOfTime { .. }), "{error}");
    others.rollback().await.unwrap();
    assert_eq!(bed.store().freshness(&objects, RELAXED_TIMEOUT).await.unwrap().len(), 1);
}
