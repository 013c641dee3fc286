//! Small clusters in which much goes wrong, one for each seed; a larger number of seeds, and
//! large clusters, by hand: `cargo xtask simulate`.

use simulator::{Broken, Plan, Sample, Settings, run};

/// Of each run of the tests; always the same ones.
const SEEDS: u64 = 40;
/// The same, of clusters whose nodes and sessions are only counted.
const SEEDS_COUNTED: u64 = 1_000;
/// A gateway that is wrong is found with one of so many seeds.
const SEEDS_BROKEN: u64 = 15;

#[test]
fn small_clusters_keep_the_invariants_whatever_goes_wrong() {
    for seed in 0..SEEDS {
        if let Err(error) = run(&Settings::small(seed)) {
            panic!("{error:#}");
        }
    }
}

#[test]
fn placement_keeps_its_invariants_whatever_goes_wrong() {
    for seed in 0..SEEDS_COUNTED {
        let mut settings = Settings::small(seed);
        settings.sample.guilds = 0;
        settings.sample.clients = 0;
        if let Err(error) = run(&settings) {
            panic!("{error:#}");
        }
    }
}

#[test]
fn a_gateway_that_delivers_repeats_is_found() {
    found(Broken::Repeats, "I3");
}

#[test]
fn a_gateway_that_fetches_no_gaps_is_found() {
    found(Broken::GapFetch, "");
}

#[test]
fn a_gateway_that_tells_of_views_too_late_is_found() {
    found(Broken::ClassOrder, "I7");
}

/// What breaks first when gateways leave this out, for one seed at least.
fn found(broken: Broken, invariant: &str) {
    let wrong = (0..SEEDS_BROKEN).find_map(|seed| {
        let mut settings = Settings::small(seed);
        settings.sample.broken = Some(broken);
        run(&settings).err()
    });
    let wrong = wrong.map(|error| format!("{error:#}"));
    let wrong = wrong.unwrap_or_else(|| panic!("{broken:?} is not noticed"));
    assert!(wrong.contains(invariant), "{wrong}");
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
                ..Settings::small(7).sample
            },
            ..Settings::small(7)
        };
        run(&settings).unwrap().to_string()
    };
    assert_eq!(report(7), report(7));
    assert_ne!(report(7), report(8));
}
