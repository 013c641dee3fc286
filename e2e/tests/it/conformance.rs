//! The protocol, operation by operation: see `e2e::conformance`.

use e2e::{cluster::Cluster, conformance};

/// What `docs/conformance.md` claims is so.
#[tokio::test(flavor = "multi_thread")]
async fn every_operation_does_what_the_page_says() {
    let cluster = Cluster::start(conformance::OPTIONS).await.unwrap();
    let book = conformance::run(&cluster).await;
    assert!(book.wire_faults.is_empty(), "{:#?}", book.wire_faults);
    let lost = book.regressions(include_str!("../../../docs/conformance.md"));
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}
