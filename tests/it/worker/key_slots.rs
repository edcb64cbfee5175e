//! The key slots of a run while Redis fails.

use std::{sync::Arc, time::Duration};

use refresh_worker::{
    api::{KeyPool, KeyStore},
    clock::{Clock, SystemClock},
    config::RedisConfig,
    queue::{Holder, SharedState as _, redis::RedisQueue},
    worker::keys::KeySlots,
};

use super::bed::{TOKEN, seconds};
use crate::support::{
    self,
    proxy::{Mode, Proxy},
};

#[tokio::test]
async fn unshared_cooldown_is_shared_with_next_renewal() {
    let (proxy, url) = Proxy::in_front_of(&support::redis::fresh().await).await;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let config = RedisConfig { url: url.as_str().into(), cluster: false, namespace: "refresh".to_owned() };
    let queue = RedisQueue::connect(&config, Arc::clone(&clock)).unwrap();
    let key_store = KeyStore::from_tokens(vec![TOKEN.into()]);
    let keys = KeyPool::new(Arc::clone(&clock), 30);
    let ring = KeySlots::new(&queue, clock.as_ref(), &key_store, &keys, "run", seconds(60), None);
    ring.take().await.unwrap();
    let key = keys.fingerprints()[0].clone();

    for player in ["player:2PP", "player:2QQ"] {
        keys.throttled(&key, seconds(30), &player.parse().unwrap());
    }
    proxy.set(Mode::Refuse);
    ring.share_cooldowns().await.unwrap_err();
    proxy.set(Mode::Pass);
    // The connection comes back when the queue finds it again.
    while ring.renew().await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let view = queue.look_at_key(&key).await.unwrap();
    assert_eq!(view.holder, Holder::CoolingDown("throttled".to_owned()));
    assert!(view.for_another > seconds(20) && view.aimd_state.is_some(), "{view:?}");
}
