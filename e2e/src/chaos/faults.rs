//! Carries out a schedule, and makes everything well again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use xtask::process::Signal;

use super::checker::{Touches, Trouble};
use super::listener::now_ms;
use super::network::Cable;
use super::plan::{Fault, Line, Member, Planned};
use super::stage::{Placement, Stage, start_with, with};
use super::stores::{RedisPair, start_postgres};
use crate::cluster::lock;

/// Of a throttled line, bytes per second and connection.
const SLOW_BYTES: u32 = 20_000;
/// Between saves of Redis, of which the newest comes back.
const SAVE_INTERVAL: Duration = Duration::from_secs(20);
/// How far the replica is behind when it takes over.
const LAG: Duration = Duration::from_secs(2);
/// On loopback a bad cable is one whose traffic stands still for such moments.
const STUTTER: Duration = Duration::from_millis(400);

/// One lock for each thing that faults are done to, so that an overdue one delays only its own.
type Locks = Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>;

/// Does all of it; the troubles come back once the last is over.
pub(super) async fn carry_out(stage: &Arc<Stage>, planned: &[Planned]) -> Result<Vec<Trouble>> {
    let begin = Instant::now();
    let locks: Locks = Arc::default();
    let mut running = JoinSet::new();
    let mut troubles = Vec::new();
    let saving = tokio::spawn(keep_saves(Arc::clone(stage)));
    for (number, one) in planned.iter().copied().enumerate() {
        sleep_until(begin + one.at).await;
        println!(
            "{:>4} {:>6.1} s  {} for {:.1} s",
            number + 1,
            one.at.as_secs_f64(),
            one.fault,
            one.lasts.as_secs_f64()
        );
        let (stage, locks) = (Arc::clone(stage), Arc::clone(&locks));
        running.spawn(async move {
            let lock = lock_of(&locks, one.fault);
            let _turn = lock.lock().await;
            let from = now_ms();
            let done = strike(&stage, one).await;
            done.with_context(|| format!("fault {}: {}", number + 1, one.fault))?;
            anyhow::Ok(Trouble {
                from,
                to: now_ms(),
                label: one.fault.to_string(),
                touches: touches(one.fault),
            })
        });
        while let Some(done) = running.try_join_next() {
            troubles.push(done??);
        }
    }
    while let Some(done) = running.join_next().await {
        troubles.push(done??);
    }
    saving.abort();
    Ok(troubles)
}

fn lock_of(locks: &Locks, fault: Fault) -> Arc<tokio::sync::Mutex<()>> {
    let name = match fault {
        Fault::Kill(member) | Fault::Pause(member) => format!("process {member}"),
        Fault::Stop(gateway) => format!("process {}", Member::Gateway(gateway)),
        Fault::Duel => "duel".to_owned(),
        Fault::Cut(member, _)
        | Fault::Reset(member, _)
        | Fault::Lossy(member)
        | Fault::Slow(member, _) => format!("wire {member}"),
        Fault::FlushRedis
        | Fault::PauseRedis
        | Fault::EmptyRedis
        | Fault::FailOverRedis
        | Fault::OldRedis => "Redis".to_owned(),
        Fault::RestartPostgres | Fault::KillPostgres => "Postgres".to_owned(),
        Fault::Drain(_) | Fault::Pin(_) | Fault::Move(_) => "placement".to_owned(),
    };
    Arc::clone(lock(locks).entry(name).or_default())
}

/// What sessions feel of it.
fn touches(fault: Fault) -> Touches {
    match fault {
        Fault::Kill(Member::Gateway(gateway))
        | Fault::Pause(Member::Gateway(gateway))
        | Fault::Cut(Member::Gateway(gateway), _)
        | Fault::Reset(Member::Gateway(gateway), _)
        | Fault::Lossy(Member::Gateway(gateway))
        | Fault::Slow(Member::Gateway(gateway), _)
        | Fault::Stop(gateway) => Touches::Gateway(gateway),
        Fault::Drain(gateway) => Touches::Clients(gateway),
        Fault::FlushRedis
        | Fault::PauseRedis
        | Fault::EmptyRedis
        | Fault::FailOverRedis
        | Fault::OldRedis => Touches::Redis,
        Fault::RestartPostgres | Fault::KillPostgres => Touches::Postgres,
        // No session ends because shards move.
        _ => Touches::Other,
    }
}

async fn strike(stage: &Arc<Stage>, one: Planned) -> Result<()> {
    let lasts = one.lasts;
    match one.fault {
        Fault::Kill(member) => {
            stage.actor(member).server.kill();
            sleep(lasts).await;
            stage.actor(member).restart().await
        }
        Fault::Stop(gateway) => {
            let member = Member::Gateway(gateway);
            stage.actor(member).server.stop().await;
            sleep(lasts).await;
            stage.actor(member).restart().await
        }
        Fault::Pause(member) => {
            let server = &stage.actor(member).server;
            server.signal(Signal::STOP);
            sleep(lasts).await;
            server.signal(Signal::CONT);
            // One that misses its lease or heartbeat may end by itself.
            well(stage, member).await
        }
        Fault::Duel => {
            for coordinator in &stage.coordinators {
                coordinator.server.signal(Signal::STOP);
                sleep(lasts / 2).await;
                coordinator.server.signal(Signal::CONT);
            }
            Ok(())
        }
        Fault::Cut(member, line) => {
            let actor = stage.actor(member);
            let by_cable = line == Line::Everything && actor.set_cable(Cable::Pulled)?;
            if by_cable {
                sleep(lasts).await;
                actor.set_cable(Cable::Whole)?;
            } else {
                actor.ways(line).iter().for_each(|way| way.stall());
                sleep(lasts).await;
                actor.ways(line).iter().for_each(|way| way.flow());
            }
            Ok(())
        }
        Fault::Reset(member, line) => {
            let actor = stage.actor(member);
            actor.ways(line).iter().for_each(|way| way.cut());
            Ok(())
        }
        Fault::Lossy(member) => {
            let actor = stage.actor(member);
            if actor.set_cable(Cable::Bad)? {
                sleep(lasts).await;
                actor.set_cable(Cable::Whole)?;
                return Ok(());
            }
            let end = Instant::now() + lasts;
            while Instant::now() < end {
                let ways = actor.ways(Line::Everything);
                ways.iter().for_each(|way| way.stall());
                sleep(STUTTER).await;
                ways.iter().for_each(|way| way.flow());
                sleep(STUTTER).await;
            }
            Ok(())
        }
        Fault::Slow(member, line) => {
            let actor = stage.actor(member);
            let set = |bytes| actor.ways(line).iter().for_each(|way| way.throttle(bytes));
            set(SLOW_BYTES);
            sleep(lasts).await;
            set(0);
            Ok(())
        }
        Fault::FlushRedis
        | Fault::PauseRedis
        | Fault::EmptyRedis
        | Fault::FailOverRedis
        | Fault::OldRedis => strike_redis(stage, one).await,
        Fault::RestartPostgres | Fault::KillPostgres => {
            let hard = one.fault == Fault::KillPostgres;
            with(&stage.postgres, move |own| match hard {
                true => own.server.kill(),
                false => own.server.stop(),
            })
            .await?;
            sleep(lasts).await;
            start_with(&stage.postgres, start_postgres).await
        }
        Fault::Drain(gateway) => {
            stage.place(Placement::Drained(gateway)).await?;
            // As a load balancer once /ready says 503. Sockets that are open stay.
            let doors = stage.gateways[gateway].ways(Line::Public);
            doors.iter().for_each(|door| door.refuse());
            sleep(lasts).await;
            let undrained = stage.place(Placement::Undrained(gateway)).await;
            doors.iter().for_each(|door| door.accept());
            undrained
        }
        Fault::Pin(gateway) => {
            stage.place(Placement::Pinned(gateway)).await?;
            sleep(lasts).await;
            stage.place(Placement::NothingPinned).await
        }
        Fault::Move(gateway) => {
            stage.place(Placement::Moved(gateway)).await?;
            sleep(lasts).await;
            stage.place(Placement::NoMoves).await
        }
    }
}

async fn strike_redis(stage: &Stage, one: Planned) -> Result<()> {
    let redis = &stage.redis;
    match one.fault {
        Fault::FlushRedis => with(redis, |pair| pair.flush()).await?,
        Fault::PauseRedis => {
            with(redis, |pair| pair.signal(Signal::STOP)).await?;
            sleep(one.lasts).await;
            with(redis, |pair| pair.signal(Signal::CONT)).await
        }
        Fault::FailOverRedis => {
            with(redis, |pair| pair.begin_lag()).await?;
            sleep(LAG).await;
            let addr = with(redis, RedisPair::fail_over).await??;
            stage.point_to_redis(addr);
            start_with(redis, RedisPair::start_replica).await
        }
        fault => {
            with(redis, |pair| pair.kill()).await?;
            sleep(one.lasts).await;
            start_with(redis, move |pair| match fault {
                Fault::OldRedis => pair.come_back_old(),
                _ => pair.come_back_empty(),
            })
            .await
        }
    }
}

/// Waits until a process is ready; starts it if it has ended.
async fn well(stage: &Stage, member: Member) -> Result<()> {
    let server = &stage.actor(member).server;
    if server.pid().is_none() {
        println!("     {member} ended by itself:\n{}", server.log_tail());
        return stage.actor(member).restart().await;
    }
    match server.ready().await {
        Ok(()) => Ok(()),
        Err(_) => stage.actor(member).restart().await,
    }
}

/// So that there is something old to come back.
async fn keep_saves(stage: Arc<Stage>) {
    loop {
        // Without an answer while Redis is away; the one before stays.
        let _ = with(&stage.redis, |pair| pair.save()).await;
        sleep(SAVE_INTERVAL).await;
    }
}
