//! An operator drains a gateway while people write. Every frame that their clients got is compared
//! with the log by the checker of chaos.

use e2e::{
    cluster::{Options, Use},
    figures::drain::{self, DRAINED, Size},
};

const SIZE: Size = Size {
    people: 12,
    sessions_each: 3,
    over_s: 4,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_session_of_a_drained_gateway_resumes_elsewhere_and_misses_nothing() {
    let cluster = Use::own(Options::DEFAULT).await;
    let drained = drain::drain(&cluster, SIZE).await.unwrap();
    assert_eq!(drained.wrong.count, 0, "{:#?}", drained.wrong.evidence);
    assert_eq!(drained.sessions, SIZE.people * SIZE.sessions_each);
    assert_eq!(
        drained.resumed, drained.sessions,
        "{} had to identify anew, {} stayed",
        drained.anew, drained.stayed
    );
    assert!(drained.deliveries > 0);
    cluster.emptied(DRAINED).await;
}
