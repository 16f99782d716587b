//! Obligations of `Provider::open`.

use ganger_core::Severity;

use crate::{
    Jobs, Store, TestManager,
    manager::{LONG, labels, room},
    soon,
};

/// It has a sink and takes orders exactly where it declares so: what is declared and not there would be passed over by
/// the tests, and what is there and not declared would be used untested.
pub async fn it_has_a_sink_and_takes_orders_exactly_where_it_declares_so(store: impl Store) {
    let manager = TestManager::open(&store).await;
    let can = manager.provider.capabilities();
    assert_eq!(
        (can.sink, can.admin),
        (manager.provider.sink().is_some(), manager.provider.admin().is_some())
    );
}

/// Opening a store that is out of reach is a transient error; the manager tries again.
pub async fn opening_a_store_that_is_out_of_reach_is_a_transient_error_the_manager_tries_again(
    store: impl Store,
) {
    let Some(error) = soon("the error of opening", store.open_out_of_reach()).await else { return };
    assert_eq!(error.severity(), Severity::Transient, "{error}");
}

/// Opening a store of a newer format is refused and leaves it untouched.
pub async fn opening_a_store_of_a_newer_format_is_refused_and_leaves_it_untouched(store: impl Store) {
    let Some((error, untouched)) = soon("the error of opening", store.open_newer_format()).await else {
        return;
    };
    assert!(error.is_refused(), "a newer format is `ProviderError::refused`, not: {error}");
    assert!(untouched, "the store was changed although it was refused");
}

/// Tasks that it needs are spawned here; they live on the manager's own runtime: calls from another one are
/// served.
pub async fn tasks_that_it_needs_are_spawned_here_they_live_on_the_managers_own_runtime(store: impl Store) {
    let manager = TestManager::open(&store).await;
    manager.put(&store, Jobs::many(1)).await;
    // A runtime that ends with its only call: a task that the call had spawned there would die with it.
    let elsewhere = std::thread::spawn(move || {
        let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let leased = other.block_on(manager.claim(room(1), LONG));
        (manager, leased)
    });
    let joined = tokio::task::spawn_blocking(|| elsewhere.join());
    let (manager, leased) = soon("a call from another runtime", joined).await.unwrap().unwrap();
    assert_eq!(labels(&leased), ["0"]);
    manager.put(&store, Jobs::many(2)).await;
    assert_eq!(labels(&manager.claim(room(2), LONG).await), ["0", "1"]);
}
