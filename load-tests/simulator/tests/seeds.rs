//! Small clusters in which much goes wrong, one for each seed; a larger number of seeds, and
//! large clusters, by hand: `cargo xtask simulate`.

use simulator::{Plan, Sample, Settings, run};

/// Of each run of the tests; always the same ones.
const SEEDS: u64 = 1_000;

#[test]
fn small_clusters_keep_the_invariants_whatever_goes_wrong() {
    for seed in 0..SEEDS {
        if let Err(error) = run(&Settings::small(seed)) {
            panic!("{error:#}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_one_does_not() {
    let report = |seed| {
        let settings = Settings {
            nodes: 20,
            shards: 256,
            sessions: 100_000,
            length_ms: 300_000,
            seed,
            plan: Plan::Rolling { crashes: 5 },
            sample: Sample {
                guilds: 4,
                clients: 20,
                ..Settings::small(seed).sample
            },
        };
        run(&settings).unwrap().to_string()
    };
    assert_eq!(report(7), report(7));
    assert_ne!(report(7), report(8));
}
