//! The loop: virtual time, and what each process does when its time has come.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use guildhall_gateway::simulated::ResumeLog;
use guildhall_shared::cluster_map::Nodes;
use guildhall_shared::keys;
use shard_coordinator::simulated::{Decided, GLANCE, REDIS_ANSWER_MAX, RENEWAL, ROUND};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use crate::chance::Chance;
use crate::coordinator::{Coordinator, TermRow, millis};
use crate::crowd::Crowd;
use crate::faults::{Fault, Plan, quiet_end_ms};
use crate::gateway::{Gateway, Phase};
use crate::live::{Live, Sample};
use crate::redis::Redis;
use crate::report::Report;
use crate::watch::Watch;

const COORDINATORS: usize = 3;
/// As `MOVES_PER_NODE_MAX` of the coordinator.
const PER_NODE_MAX: usize = 8;
/// Sessions of a node that stops are gone after this time.
const DRAIN_MS: u64 = 20_000;
/// A node that stops does not wait longer for its shards to be taken and its clients to go.
const STOP_MAX_MS: u64 = DRAIN_MS + 30_000;
/// A node that stopped is started again after this time.
const BOOT_MS: u64 = 5_000;
/// Realms of one map have moved after this time at the latest.
const SETTLE_MS: u64 = 700;

/// One run.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub nodes: usize,
    pub shards: u16,
    pub sessions: u64,
    /// Virtual milliseconds.
    pub length_ms: u64,
    pub seed: u64,
    pub plan: Plan,
    /// The guilds and clients that are real, besides sessions that are only counted.
    pub sample: Sample,
    /// Each virtual minute is told of on standard error.
    pub tells_minutes: bool,
}

impl Settings {
    /// A small cluster, drawn from the seed, in which much goes wrong for a while.
    pub fn small(seed: u64) -> Self {
        let mut chance = Chance::new(!seed);
        Self {
            nodes: chance.between(1, 9) as usize,
            shards: chance.between(1, 65) as u16,
            sessions: chance.below(1_000),
            length_ms: 200_000,
            seed,
            plan: Plan::Storm,
            sample: Sample {
                guilds: chance.between(1, 4) as usize,
                clients: chance.between(2, 9) as usize,
                write_every_ms: 400,
                break_every_ms: 20_000,
                delay_ms_max: chance.below(4),
                resume: match chance.below(3) {
                    0 => ResumeLog::Sync,
                    _ => ResumeLog::Async,
                },
                broken: None,
            },
            tells_minutes: false,
        }
    }
}

/// Something whose time comes. `run` names the process that asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Fault(Fault),
    Start(usize),
    /// A heartbeat, and a look at the map before it.
    Beat {
        node: usize,
        run: u32,
    },
    /// Redis told the node of a map.
    Told {
        node: usize,
        run: u32,
    },
    StartCoordinator(usize),
    Renew {
        place: usize,
        run: u32,
    },
    /// A round or a glance.
    Turn {
        place: usize,
        run: u32,
    },
    Write {
        place: usize,
        run: u32,
    },
    /// A node that stood still goes on.
    GoOn {
        node: usize,
        run: u32,
    },
    Second,
}

struct World {
    settings: Settings,
    now: u64,
    /// The coordinators count in this.
    epoch: Instant,
    /// Gateways and clients do in this.
    began: tokio::time::Instant,
    due: BinaryHeap<Reverse<(u64, u64, Due)>>,
    /// Of two things at the same time, the one asked for first comes first.
    asked: u64,
    chance: Chance,
    redis: Redis,
    term: TermRow,
    gateways: Vec<Gateway>,
    coordinators: Vec<Coordinator>,
    crowd: Crowd,
    live: Live,
    watch: Watch,
    silence_until: u64,
    leaderless_since: Option<u64>,
    leaderless_max: u64,
    take_overs: u64,
    last_term: u64,
}

/// Runs a cluster to the end.
///
/// Errors: an invariant does not hold; says which, when and for what seed.
pub fn run(settings: &Settings) -> Result<Report> {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut world = World::new(settings.clone());
        world.go().await.with_context(|| {
            let (seconds, seed) = (world.now as f64 / 1_000.0, settings.seed);
            format!("at {seconds:.3} s of seed {seed}")
        })?;
        Ok(world.report())
    })
}

impl World {
    fn new(settings: Settings) -> Self {
        let mut chance = Chance::new(settings.seed);
        let mut gateways: Vec<Gateway> = (0..settings.nodes).map(Gateway::new).collect();
        Crowd::fill(&mut gateways, settings.sessions);
        let faults = settings
            .plan
            .draw(&mut chance, settings.nodes, settings.length_ms);
        let writes_for = settings
            .length_ms
            .saturating_sub(quiet_end_ms(settings.length_ms));
        let live = Live::begin(
            &settings.sample,
            settings.seed,
            (settings.shards, settings.nodes),
            Duration::from_millis(writes_for),
        );
        let mut world = Self {
            now: 0,
            epoch: Instant::now(),
            due: BinaryHeap::new(),
            asked: 0,
            chance,
            redis: Redis::default(),
            term: TermRow::default(),
            coordinators: (0..COORDINATORS).map(|_| Coordinator::down()).collect(),
            crowd: Crowd::default(),
            live,
            began: tokio::time::Instant::now(),
            watch: Watch::new(settings.shards, settings.nodes, PER_NODE_MAX),
            silence_until: 0,
            leaderless_since: Some(0),
            leaderless_max: 0,
            take_overs: 0,
            last_term: 0,
            gateways,
            settings,
        };
        for (at, fault) in faults {
            world.at(at, Due::Fault(fault));
        }
        for node in 0..world.gateways.len() {
            let at = world.chance.below(2_000);
            world.at(at, Due::Start(node));
        }
        for place in 0..COORDINATORS {
            let at = world.chance.below(1_000);
            world.at(at, Due::StartCoordinator(place));
        }
        world.at(1_000, Due::Second);
        world
    }

    fn at(&mut self, time: u64, due: Due) {
        self.asked += 1;
        self.due.push(Reverse((time, self.asked, due)));
    }

    fn after(&mut self, wait: u64, due: Due) {
        self.at(self.now + wait, due);
    }

    fn instant(&self) -> Instant {
        self.epoch + Duration::from_millis(self.now)
    }

    async fn go(&mut self) -> Result<()> {
        while let Some(Reverse((time, _, due))) = self.due.pop() {
            if time > self.settings.length_ms {
                break;
            }
            self.wait_until(time).await;
            self.happen(due)?;
        }
        self.wait_until(self.settings.length_ms).await;
        self.is_whole()
    }

    /// Gateways and clients do what they do meanwhile.
    async fn wait_until(&mut self, time: u64) {
        if time > self.now {
            tokio::time::sleep_until(self.began + Duration::from_millis(time)).await;
        }
        self.now = time;
    }

    fn happen(&mut self, due: Due) -> Result<()> {
        match due {
            Due::Fault(fault) => self.fault(fault),
            Due::Start(node) => self.start(node),
            Due::Beat { node, run } if self.gateways[node].run == run => self.beat(node),
            Due::Told { node, run } if self.gateways[node].run == run => self.look_at_map(node),
            Due::StartCoordinator(place) => self.start_coordinator(place),
            Due::Renew { place, run } if self.coordinators[place].run == run => self.renew(place),
            Due::Turn { place, run } if self.coordinators[place].run == run => self.turn(place)?,
            Due::Write { place, run } if self.coordinators[place].run == run => {
                self.write(place)?
            }
            Due::GoOn { node, run } if self.gateways[node].run == run => self.go_on(node),
            Due::Second => self.second()?,
            // Of a process that has ended since.
            Due::Beat { .. }
            | Due::Told { .. }
            | Due::Renew { .. }
            | Due::Turn { .. }
            | Due::Write { .. }
            | Due::GoOn { .. } => {}
        }
        Ok(())
    }

    fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Crash { node, back_after } if self.gateways[node].is_running() => {
                self.crash(node, back_after, false);
            }
            Fault::PowerCut { node, back_after } if self.gateways[node].is_running() => {
                self.crash(node, back_after, true);
            }
            Fault::Restart { node } if self.gateways[node].takes_sessions(self.now) => {
                let gone_by = self.now + DRAIN_MS;
                self.gateways[node].phase = Phase::Stopping { gone_by };
                self.live.leave(node);
                self.beat_once(node);
            }
            Fault::StandStill { node, lasts } if self.gateways[node].is_running() => {
                self.live.stand_still(node);
                let until = self.now + lasts;
                let gateway = &mut self.gateways[node];
                gateway.still_until = gateway.still_until.max(until);
                let run = gateway.run;
                self.at(until, Due::GoOn { node, run });
            }
            // It is down, leaving or standing still already.
            Fault::Crash { .. }
            | Fault::PowerCut { .. }
            | Fault::Restart { .. }
            | Fault::StandStill { .. } => {}
            Fault::Cut { one, other, lasts } => {
                self.live.cut((one, other), Duration::from_millis(lasts));
            }
            Fault::Flush { restarts } => {
                self.redis.flush();
                self.live.flush(restarts);
            }
            // What the replica lacks of heartbeats and maps is written again within 2 s.
            Fault::FailOver { lag } => self.live.fail_over(Duration::from_millis(lag)),
            Fault::PostgresOutage { lasts } => {
                self.live.postgres_goes_away(Duration::from_millis(lasts));
            }
            Fault::Outage { lasts } => {
                self.redis.go_away(self.now + lasts);
                self.live.redis_goes_away(Duration::from_millis(lasts));
            }
            Fault::Silence { lasts } => {
                self.silence_until = self.silence_until.max(self.now + lasts);
            }
            Fault::LeaderCrash { back_after } => {
                let now = self.now;
                let leads = |one: &Coordinator| one.term(now).is_some();
                if let Some(place) = self.coordinators.iter().position(leads) {
                    self.coordinators[place].crash();
                    self.after(back_after, Due::StartCoordinator(place));
                }
            }
        }
    }

    fn start(&mut self, node: usize) {
        let gateway = &mut self.gateways[node];
        gateway.phase = Phase::Up;
        gateway.run += 1;
        gateway.map = None;
        gateway.still_until = 0;
        self.live.start(node, gateway.relay_addr());
        self.watch.look(self.now, &self.gateways);
        self.beat(node);
    }

    /// A process ends at once.
    fn crash(&mut self, node: usize, back_after: u64, silently: bool) {
        self.live.crash(node, silently);
        self.stop(node);
        self.crowd.lose(&mut self.gateways[node]);
        self.after(back_after, Due::Start(node));
    }

    fn go_on(&mut self, node: usize) {
        if self.gateways[node].still_until <= self.now {
            self.live.go_on(node);
        }
    }

    /// A process has ended.
    fn stop(&mut self, node: usize) {
        let gateway = &mut self.gateways[node];
        gateway.phase = Phase::Down;
        gateway.run += 1;
        gateway.seen_up = self.now;
        self.watch.look(self.now, &self.gateways);
    }

    fn beat(&mut self, node: usize) {
        let gateway = &self.gateways[node];
        let (still_until, run) = (gateway.still_until, gateway.run);
        if self.now < still_until {
            return self.at(still_until, Due::Beat { node, run });
        }
        self.look_at_map(node);
        let lost = self.now < self.silence_until && self.chance.in_thousand(500)
            || self.chance.in_thousand(10);
        if !lost {
            self.beat_once(node);
        }
        self.after(keys::NODE_HEARTBEAT_MS, Due::Beat { node, run });
    }

    fn beat_once(&mut self, node: usize) {
        if self.redis.answers(self.now) {
            let moving = self.live.realms_moving(node);
            let status = self.gateways[node].status(self.now, moving);
            self.redis.beat(self.now, status);
        }
    }

    fn look_at_map(&mut self, node: usize) {
        let Some(map) = self.redis.map().filter(|_| self.redis.answers(self.now)) else {
            return;
        };
        let gateway = &mut self.gateways[node];
        if self.now < gateway.still_until {
            return; // it looks when it goes on
        }
        // One that has just started is not late.
        let had_one = gateway.map.is_some();
        if gateway.is_running() && gateway.offer(map) {
            self.live.read_map(node, map);
            gateway.moving_until = self.now + self.chance.between(20, SETTLE_MS);
            if had_one && gateway.version() == self.watch.newest {
                self.watch.adopted(self.now);
            }
        }
    }

    fn start_coordinator(&mut self, place: usize) {
        let (now, shards) = (self.instant(), self.settings.shards);
        self.coordinators[place].start(now, shards, PER_NODE_MAX);
        self.renew(place);
        let run = self.coordinators[place].run;
        self.after(millis(GLANCE), Due::Turn { place, run });
    }

    fn renew(&mut self, place: usize) {
        let coordinator = &mut self.coordinators[place];
        coordinator.attempt(self.now, place, &mut self.term);
        let run = coordinator.run;
        let every = millis(RENEWAL);
        self.after(every, Due::Renew { place, run });
    }

    /// Five times a second: a round if one is due, a glance if something moves.
    fn turn(&mut self, place: usize) -> Result<()> {
        let now = self.instant();
        let answers = self.redis.answers(self.now);
        let run = self.coordinators[place].run;
        self.after(millis(GLANCE), Due::Turn { place, run });
        let coordinator = &mut self.coordinators[place];
        let is_due = self.now >= coordinator.round_due;
        let Some(pilot) = coordinator.pilot.as_mut() else {
            return Ok(());
        };
        if coordinator.writing.is_some() || !(is_due || answers && pilot.is_in_motion()) {
            return Ok(());
        }
        if !answers {
            pilot.blind(now);
            coordinator.round_due = self.now + millis(ROUND);
            return Ok(());
        }
        let live = self.redis.live(self.now);
        if !is_due && !pilot.glance(now, live) {
            return Ok(());
        }
        coordinator.round_due = self.now + millis(ROUND);
        let live = live.clone();
        self.round(place, live)
    }

    fn round(&mut self, place: usize, live: Nodes) -> Result<()> {
        let now = self.instant();
        let coordinator = &mut self.coordinators[place];
        let term = coordinator.term(self.now);
        let map = self.redis.map();
        if let Some(map) = map {
            coordinator.saw_term(map.version.term);
        }
        let Some(pilot) = coordinator.pilot.as_mut() else {
            return Ok(());
        };
        let run = coordinator.run;
        match pilot.round(now, live, map.map(Rc::as_ref), term) {
            Decided::Publish(proposal) => {
                coordinator.writing = Some(proposal);
                let slow = self.chance.in_thousand(10);
                let longest = if slow { millis(REDIS_ANSWER_MAX) } else { 60 };
                let wait = self.chance.between(1, longest);
                self.after(wait, Due::Write { place, run });
            }
            Decided::Keep { at_rest: true } if !pilot.is_frozen(now) => {
                let accepting = pilot.accepting();
                if let Some(map) = pilot.last_known() {
                    self.watch.at_rest(map, accepting)?;
                }
            }
            Decided::LaterTerm(later) => coordinator.saw_term(later),
            Decided::Keep { .. } | Decided::Nothing => {}
        }
        Ok(())
    }

    fn write(&mut self, place: usize) -> Result<()> {
        let now = self.instant();
        let Some(proposal) = self.coordinators[place].writing.take() else {
            return Ok(());
        };
        if !self.redis.answers(self.now) {
            return Ok(());
        }
        let map = Rc::new(proposal.map.clone());
        if !self.redis.publish(&map) {
            let later = self.redis.map().map_or(0, |map| map.version.term);
            self.coordinators[place].saw_term(later);
            return Ok(());
        }
        self.watch.published(self.now, &proposal, &self.gateways)?;
        for node in 0..self.gateways.len() {
            let run = self.gateways[node].run;
            if self.gateways[node].is_running() && !self.chance.in_thousand(20) {
                let wait = self.chance.between(1, 50);
                self.after(wait, Due::Told { node, run });
            }
        }
        // Now and then the answer gets lost on its way back.
        if !self.chance.in_thousand(10)
            && let Some(pilot) = self.coordinators[place].pilot.as_mut()
        {
            pilot.published(now, *proposal);
        }
        Ok(())
    }

    fn second(&mut self) -> Result<()> {
        self.after(1_000, Due::Second);
        if self.settings.tells_minutes && self.now.is_multiple_of(60_000) {
            let (minutes, took) = (self.now / 60_000, self.epoch.elapsed().as_secs());
            eprintln!("{minutes} min simulated in {took} s");
        }
        self.live.is_right()?;
        self.crowd
            .second(self.now, &mut self.gateways, &mut self.chance);
        for node in 0..self.gateways.len() {
            let gateway = &self.gateways[node];
            let Phase::Stopping { gone_by } = gateway.phase else {
                continue;
            };
            let has_left = self.live.has_left(node);
            let idle = gateway.sessions == 0 && self.watch.owned(node) == 0 && has_left;
            let late = self.now >= gone_by - DRAIN_MS + STOP_MAX_MS;
            if idle || late {
                if has_left {
                    self.live.end(node);
                } else {
                    // As by whoever waited for it to end.
                    self.live.crash(node, false);
                }
                self.stop(node);
                self.crowd.lose(&mut self.gateways[node]);
                if self.redis.answers(self.now) {
                    self.redis.forget(&self.gateways[node].id);
                }
                self.after(BOOT_MS, Due::Start(node));
            }
        }
        self.watch_leader();
        let here: u64 = self.gateways.iter().map(|gateway| gateway.sessions).sum();
        ensure!(
            here + self.crowd.away() == self.settings.sessions,
            "I11: of {} sessions, {here} are here and {} on the way",
            self.settings.sessions,
            self.crowd.away()
        );
        Ok(())
    }

    fn watch_leader(&mut self) {
        let terms = self.coordinators.iter();
        let mut terms = terms.filter_map(|coordinator| coordinator.term(self.now));
        match (terms.next(), self.leaderless_since) {
            (None, None) => self.leaderless_since = Some(self.now),
            (Some(term), since) => {
                if let Some(since) = since {
                    self.leaderless_max = self.leaderless_max.max(self.now - since);
                }
                self.leaderless_since = None;
                self.take_overs += u64::from(term > self.last_term);
                self.last_term = self.last_term.max(term);
            }
            (None, Some(_)) => {}
        }
    }

    /// After a quiet time at the end nothing is left of all that went wrong.
    fn is_whole(&self) -> Result<()> {
        self.live.is_whole()?;
        ensure!(self.watch.all_owned(), "I8: a shard has no live owner");
        ensure!(self.crowd.away() == 0, "I11: sessions are still away");
        let long_ago = self.now - self.watch.newest_at > 2 * keys::NODE_HEARTBEAT_MS;
        for gateway in self.gateways.iter().filter(|one| one.is_running()) {
            ensure!(
                gateway.version() == self.watch.newest || !long_ago,
                "I9: {} has {:?}, the newest map is {:?} since {} ms",
                gateway.id,
                gateway.version(),
                self.watch.newest,
                self.watch.newest_at
            );
        }
        Ok(())
    }

    fn report(self) -> Report {
        Report::new(
            self.settings,
            self.watch,
            self.crowd,
            self.live.counts(),
            &self.gateways,
            self.take_overs,
            self.leaderless_max,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_leaves_ends_when_its_clients_have_gone_and_not_before() {
        const NODES: usize = 2;
        let any = Settings::small(1);
        let settings = Settings {
            nodes: NODES,
            shards: 1,
            sessions: 0,
            length_ms: 60_000,
            sample: Sample {
                guilds: 1,
                clients: 4,
                ..any.sample.clone()
            },
            ..any
        };
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let mut world = World::new(settings.clone());
            for node in 0..NODES {
                // Right before the world looks whether it can end.
                let restart = Due::Fault(Fault::Restart { node });
                world.at(20_990 + 20_000 * node as u64, restart);
            }
            let mut ended = 0;
            while let Some(Reverse((time, _, due))) = world.due.pop()
                && time <= settings.length_ms
            {
                world.wait_until(time).await;
                let leaves = |node: &usize| {
                    let phase = world.gateways[*node].phase;
                    matches!(phase, Phase::Stopping { .. })
                };
                let leaving: Vec<usize> = (0..NODES).filter(leaves).collect();
                let left: Vec<bool> = (0..NODES).map(|node| world.live.has_left(node)).collect();
                world.happen(due).unwrap();
                for node in leaving {
                    if !world.gateways[node].is_running() {
                        assert!(left[node], "node {node}");
                        ended += 1;
                    }
                }
            }
            assert_eq!(ended, NODES);
        });
    }
}
