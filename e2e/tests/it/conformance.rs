//! The protocol, operation by operation: see `e2e::conformance`.

use e2e::{
    cluster::{Cluster, Options},
    conformance,
};

/// What `docs/conformance.md` claims is so.
#[tokio::test(flavor = "multi_thread")]
async fn every_operation_does_what_the_page_says() {
    let cluster = Cluster::start(Options {
        apis: 1,
        gateways: 1,
        shards: 32,
        ..Options::default()
    })
    .await
    .unwrap();
    let book = conformance::run(&cluster).await;
    assert!(book.wire_faults.is_empty(), "{:#?}", book.wire_faults);
    let known = include_str!("../../../docs/conformance.md");
    assert!(
        known == book.page(),
        "docs/conformance.md is no longer so (`cargo xtask conformance --write` renews it):\n{}",
        book.faults().join("\n")
    );
}
