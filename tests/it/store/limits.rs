//! Calls that are given a limit end with it.

use std::time::Duration;

use refresh_worker::{
    model::ObjectId,
    store::{Committed, Store, StoreError, UNHURRIED},
};

use super::{
    Bed, beds,
    documents::{at, clan, player, tag},
    over_every_store,
};

over_every_store! {
    without_time_left_nothing_is_begun_and_the_error_says_so,
}

async fn without_time_left_nothing_is_begun_and_the_error_says_so(bed: impl Bed) {
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
async fn a_commit_behind_a_lock_is_given_up_at_its_limit_and_works_when_the_lock_is_gone() {
    let bed = beds::postgres().await;
    let batch = [player("2PP").fetched(at(0))];
    let mut others = bed.around.begin().await.unwrap();
    sqlx::query("LOCK TABLE players").execute(&mut *others).await.unwrap();
    let error = bed.store().commit_and_delete(at(1), &batch, &[], SHORT).await.unwrap_err();
    assert!(matches!(error, StoreError::OutOfTime { .. }), "{error}");
    others.rollback().await.unwrap();
    assert_eq!(
        bed.store().commit_and_delete(at(1), &batch, &[], UNHURRIED).await.unwrap().committed,
        [Committed::Stored]
    );
}

#[tokio::test]
async fn reading_what_is_fresh_behind_a_lock_is_given_up_at_its_limit() {
    let bed = beds::postgres().await;
    bed.commit_one(player("2PP").fetched(at(0))).await;
    let objects = [ObjectId::player(tag("2PP"))];
    let mut others = bed.around.begin().await.unwrap();
    sqlx::query("LOCK TABLE refresh_worker.refresh_state").execute(&mut *others).await.unwrap();
    let error = bed.store().freshness(&objects, SHORT).await.unwrap_err();
    assert!(matches!(error, StoreError::OutOfTime { .. }), "{error}");
    others.rollback().await.unwrap();
    assert_eq!(bed.store().freshness(&objects, UNHURRIED).await.unwrap().len(), 1);
}
