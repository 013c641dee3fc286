//! The cluster's protocols as models: every order of events and faults within their bounds is
//! tried, and the design's invariants I1, I3..I9, I13, I14 hold in each. With one of the rules
//! that they rest on taken away, a counterexample is found, so the models can tell.
//!
//! What each stands for, and what it leaves out: `docs/simulation.md`.

mod delivery;
mod explore;
mod lead;
mod resume;

use delivery::{Delivery, Without};
use explore::{Bound, breaks, holds};
use lead::Lead;
use resume::{Absent, Faults, Fence, Resume, Ship};

/// A model that has become smaller than this says less than is claimed of it.
const STATES_LEAST: usize = 1_000_000;

#[test]
fn two_owners_with_any_map_and_a_redis_that_does_anything_lose_nothing() {
    let model = Delivery {
        edges: 1,
        events: 3,
        without: Without::Nothing,
    };
    let states = holds("delivery", model, Bound::Whole);
    assert!(states >= STATES_LEAST, "{states}");
}

#[test]
fn nor_with_edges_on_two_nodes() {
    let model = Delivery {
        edges: 2,
        events: 3,
        without: Without::Nothing,
    };
    holds("delivery, two edges", model, Bound::States(6_000_000));
}

#[test]
fn every_rule_of_delivery_is_needed() {
    let cases = [
        (Without::RepeatDropping, "I3: each once and in order"),
        (Without::GapFetch, "I8: whatever went wrong heals"),
        (
            Without::GapNotice,
            "I3, I6: none is missing, none is too much",
        ),
        (
            Without::ViewOrder,
            "I7: a revocation holds from its number on",
        ),
        (
            Without::StopAtOverflow,
            "I3, I6: none is missing, none is too much",
        ),
        (
            Without::SnapshotAge,
            "I3, I6: none is missing, none is too much",
        ),
    ];
    for (without, property) in cases {
        let model = Delivery {
            edges: 1,
            events: 3,
            without,
        };
        breaks(&format!("delivery without {without:?}"), model, property);
    }
}

const NONE: Faults = Faults {
    breaks: 0,
    kills: 0,
    freezes: 0,
    losses: 0,
    flushes: 0,
    rewinds: 0,
};

const FAULTS: Faults = Faults {
    breaks: 2,
    kills: 1,
    freezes: 1,
    ..NONE
};

const EXACT: &str = "I4: exactly once and in order";

fn resume(ship: Ship, faults: Faults) -> Resume {
    Resume {
        ship,
        fence: Fence::Redis,
        absent: Absent::Unknown,
        without: resume::Without::Nothing,
        nodes: 3,
        events: [2, 1],
        ephemeral: 1,
        faults,
    }
}

/// As small as a counterexample may be.
fn small(without: resume::Without, faults: Faults) -> Resume {
    Resume {
        without,
        nodes: 2,
        events: [1, 1],
        ephemeral: 0,
        ..resume(Ship::Async, faults)
    }
}

/// As above, with the gateway's answers to what Redis does not know.
fn small_gateway(without: resume::Without, faults: Faults) -> Resume {
    Resume {
        fence: Fence::Log,
        absent: Absent::AtHome,
        ..small(without, faults)
    }
}

#[test]
fn a_session_resumes_exactly_or_is_told_so() {
    let model = resume(Ship::Async, FAULTS);
    let states = holds("resume", model, Bound::States(6_000_000));
    assert!(states >= STATES_LEAST, "{states}");
}

#[test]
fn so_it_does_in_all_that_two_nodes_can_go_through() {
    let faults = Faults {
        breaks: 2,
        kills: 1,
        ..NONE
    };
    let model = small(resume::Without::Nothing, faults);
    holds("resume, two nodes", model, Bound::Whole);
}

#[test]
fn with_a_log_that_is_waited_for_only_redis_can_cost_a_session() {
    let model = resume(Ship::Sync, FAULTS);
    holds("resume, sync", model, Bound::States(4_000_000));
}

#[test]
fn a_redis_that_forgets_costs_sessions_and_nothing_else() {
    let faults = Faults {
        flushes: 1,
        ..FAULTS
    };
    let model = resume(Ship::Async, faults);
    holds("resume, flush", model, Bound::States(4_000_000));
}

#[test]
fn every_rule_of_resuming_is_needed() {
    use resume::Without;
    let kill = Faults { kills: 1, ..NONE };
    let kills = Faults { kills: 2, ..NONE };
    let frozen = Faults {
        breaks: 1,
        freezes: 1,
        ..NONE
    };
    let twice = Faults { breaks: 2, ..NONE };
    let given_up = Faults { breaks: 2, ..kill };
    for (without, faults, property) in [
        (Without::Compare, twice, "I13: a generation is given once"),
        (Without::OwnCheck, frozen, EXACT),
        (Without::OwnRaise, given_up, EXACT),
        (Without::LogGeneration, kills, EXACT),
        (Without::Ahead, kill, EXACT),
        (Without::ClientsNumber, kill, "I5: s grows by one"),
    ] {
        let name = format!("resume without {without:?}");
        breaks(&name, small(without, faults), property);
    }
    let model = Resume {
        events: [0, 2],
        ephemeral: 1,
        ..small(Without::EphemeralRecords, kill)
    };
    breaks("resume without EphemeralRecords", model, EXACT);
    let model = Resume {
        ship: Ship::Sync,
        ..small(Without::Waiting, kill)
    };
    breaks("resume without Waiting", model, "no op 9");
}

#[test]
fn a_node_taken_for_dead_must_doubt_its_sessions_once_redis_has_forgotten_them() {
    use resume::Without;
    let faults = Faults {
        breaks: 1,
        freezes: 1,
        flushes: 1,
        ..NONE
    };
    for without in [
        Without::DoubtOfCopies,
        Without::Look,
        Without::EndOfAttempts,
    ] {
        let name = format!("resume without {without:?}");
        breaks(&name, small_gateway(without, faults), EXACT);
    }
    let model = small_gateway(Without::Nothing, faults);
    holds("resume, frozen and flushed", model, Bound::Whole);
}

/// What a record in Redis alone cannot keep, and what does, also if Redis does not tell in which
/// life a log was written.
#[test]
fn a_record_that_rewinds_after_a_crash_fools_a_resume_unless_the_log_or_postgres_knows_too() {
    let faults = Faults {
        breaks: 1,
        kills: 1,
        rewinds: 1,
        ..NONE
    };
    let model = small(resume::Without::LifeOfLogs, faults);
    breaks("resume without LifeOfLogs", model.clone(), EXACT);
    for fence in [Fence::Log, Fence::Postgres] {
        let model = Resume {
            fence,
            ..model.clone()
        };
        let name = format!("resume, rewound, fenced by {fence:?}");
        holds(&name, model, Bound::Whole);
    }
    let model = small(resume::Without::Nothing, faults);
    holds("resume, rewound", model, Bound::Whole);
}

/// As above, where a session without a record is taken to be where its id says.
#[test]
fn a_record_that_gets_lost_after_a_crash_does_so_too_if_none_means_never_moved() {
    let faults = Faults {
        breaks: 1,
        kills: 1,
        losses: 1,
        ..NONE
    };
    let model = Resume {
        absent: Absent::AtHome,
        ..small(resume::Without::Nothing, faults)
    };
    breaks("resume, record lost", model.clone(), EXACT);
    let model = Resume {
        fence: Fence::Log,
        ..model
    };
    holds(
        "resume, record lost, fenced by the log",
        model,
        Bound::Whole,
    );
}

fn lead(without: lead::Without) -> Lead {
    Lead {
        without,
        terms: 2,
        versions: 2,
        flushes: 1,
    }
}

#[test]
fn whoever_leads_a_map_is_one_map_and_nodes_never_go_back() {
    let model = lead(lead::Without::Nothing);
    let states = holds("lead", model, Bound::Whole);
    assert!(states >= STATES_LEAST, "{states}");
}

#[test]
fn every_rule_of_leading_is_needed() {
    use lead::Without;
    let cases = [
        (Without::NewTerm, "I9: a version says one thing for ever"),
        (
            Without::UsedVersions,
            "I9: a version says one thing for ever",
        ),
        (Without::NodesCompare, "I9: maps only rise at every node"),
        (Without::OwnersTerm, "I14: no write of an older term counts"),
    ];
    for (without, property) in cases {
        breaks(
            &format!("lead without {without:?}"),
            lead(without),
            property,
        );
    }
}
