//! How often, and how many times at once, an account may identify. Spec: gateway.md › Identify
//! limits.
//!
//! Shared by all gateways through Redis; while it is away each process keeps its own counts,
//! so a cluster then allows as many times more as it has gateways. A person's session counts
//! for as long as its gateway says so: those of a gateway that died are forgotten soon.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::Hash,
    rc::Rc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use guildhall_redis::Connection;
use guildhall_shared::{
    Id,
    gateway::session_starts::{self, PERIOD, PERSON_SESSIONS_MAX},
    id::marker::User,
    keys,
};
use redis::RedisResult;
use rustc_hash::FxHashMap;
use tokio::time::sleep;

use crate::bus::Seat;

/// One identify per bot and bucket in this time.
const BUCKET_PERIOD: Duration = Duration::from_secs(5);
/// Bots remembered while Redis is away. When full, nobody may identify.
const BOTS_MAX: usize = 65_536;
/// A person's session counts for this long after its gateway last spoke of it.
const SEAT_PERIOD: Duration = Duration::from_secs(180);
/// Time between signs of life: a third of it.
const SEAT_RENEWAL: Duration = Duration::from_secs(60);
/// Sessions renewed with one round trip.
const RENEWED_AT_ONCE: usize = 1000;

pub(crate) struct StartLimits {
    commands: Connection,
    concurrency: u32,
    /// Stands in for Redis: when a bucket is free again.
    buckets: RefCell<HashMap<(Id<User>, u32), Instant>>,
    /// Stands in for Redis: when a bot's day began, and its sessions since.
    days: RefCell<HashMap<Id<User>, (Instant, u32)>>,
    /// Sessions of people on this node.
    seats: RefCell<FxHashMap<Id<User>, Vec<Seat>>>,
}

impl StartLimits {
    pub(crate) fn new(commands: Connection, concurrency: u16) -> Rc<Self> {
        Rc::new(Self {
            commands,
            concurrency: u32::from(concurrency.max(1)),
            buckets: RefCell::default(),
            days: RefCell::default(),
            seats: RefCell::default(),
        })
    }

    /// Takes the turn of a bot's shard, if its bucket is free.
    pub(crate) async fn take_turn(&self, bot: Id<User>, shard: u32) -> bool {
        let bucket = shard % self.concurrency;
        let mut commands = self.commands.clone();
        let taken: RedisResult<Option<String>> = redis::cmd("SET")
            .arg(keys::rate_limit(&format!("identify:{bot}:{bucket}")))
            .arg(1)
            .arg("NX")
            .arg("PX")
            .arg(BUCKET_PERIOD.as_millis() as u64)
            .query_async(&mut commands)
            .await;
        match taken {
            Ok(taken) => taken.is_some(),
            Err(error) => {
                tracing::debug!(%error, "identify limit kept by this process alone");
                let mut buckets = self.buckets.borrow_mut();
                take_turn_here(&mut buckets, (bot, bucket), Instant::now())
            }
        }
    }

    /// Counts one session start of a bot in so many guilds; false if it is one too many for the day.
    pub(crate) async fn count_start(&self, bot: Id<User>, guilds: usize) -> bool {
        let key = keys::session_starts(bot);
        let mut commands = self.commands.clone();
        let counted: RedisResult<(u32,)> = redis::pipe()
            .atomic()
            .cmd("SET")
            .arg(&key)
            .arg(0)
            .arg("NX")
            .arg("PX")
            .arg(PERIOD.as_millis() as u64)
            .ignore()
            .cmd("INCR")
            .arg(&key)
            .query_async(&mut commands)
            .await;
        let count = match counted {
            Ok((count,)) => Some(count),
            Err(error) => {
                tracing::debug!(%error, "session starts counted by this process alone");
                count_here(&mut self.days.borrow_mut(), bot, Instant::now())
            }
        };
        count.is_some_and(|count| count <= session_starts::total(guilds))
    }

    /// Counts a session of a person; `None` if there are as many as there may be.
    pub(crate) async fn take_seat(&self, person: Id<User>) -> Option<Seat> {
        let seat: Seat = rand::random();
        let here = self.seats.borrow().get(&person).map_or(0, Vec::len);
        if here >= PERSON_SESSIONS_MAX {
            return None;
        }
        let (key, now) = (keys::sessions_of(person), now_ms());
        let mut commands = self.commands.clone();
        let taken: RedisResult<(usize,)> = redis::pipe()
            .atomic()
            .cmd("ZREMRANGEBYSCORE")
            .arg(&key)
            .arg("-inf")
            .arg(now)
            .ignore()
            .cmd("ZADD")
            .arg(&key)
            .arg(now + SEAT_PERIOD.as_millis() as u64)
            .arg(seat)
            .ignore()
            .cmd("PEXPIRE")
            .arg(&key)
            .arg(SEAT_PERIOD.as_millis() as u64)
            .ignore()
            .cmd("ZCARD")
            .arg(&key)
            .query_async(&mut commands)
            .await;
        match taken {
            Ok((count,)) if count > PERSON_SESSIONS_MAX => {
                self.give_up(person, seat).await;
                return None;
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "sessions counted by this process alone"),
        }
        let mut seats = self.seats.borrow_mut();
        seats.entry(person).or_default().push(seat);
        Some(seat)
    }

    /// A session of a person comes from another node; it is counted already.
    pub(crate) fn adopt(&self, person: Id<User>, seat: Seat) {
        let mut seats = self.seats.borrow_mut();
        let taken = seats.entry(person).or_default();
        if !taken.contains(&seat) {
            taken.push(seat);
        }
    }

    /// A session of a person goes on on another node, which counts it.
    pub(crate) fn let_go(&self, person: Id<User>, seat: Seat) {
        let mut seats = self.seats.borrow_mut();
        if let Some(taken) = seats.get_mut(&person) {
            taken.retain(|&one| one != seat);
            if taken.is_empty() {
                seats.remove(&person);
            }
        }
    }

    /// A session of a person is over.
    pub(crate) async fn leave_seat(&self, person: Id<User>, seat: Seat) {
        self.let_go(person, seat);
        self.give_up(person, seat).await;
    }

    async fn give_up(&self, person: Id<User>, seat: Seat) {
        let mut commands = self.commands.clone();
        let gone: RedisResult<()> = redis::cmd("ZREM")
            .arg(keys::sessions_of(person))
            .arg(seat)
            .query_async(&mut commands)
            .await;
        if let Err(error) = gone {
            // It is forgotten after its time.
            tracing::debug!(%error, "the end of a session was not counted");
        }
    }

    /// Says again and again that this node's sessions are there, as long as the task lives.
    pub(crate) async fn keep_seats(self: Rc<Self>) {
        loop {
            sleep(SEAT_RENEWAL).await;
            let seats: Vec<(Id<User>, Seat)> = {
                let seats = self.seats.borrow();
                let each = |(&person, taken): (&Id<User>, &Vec<Seat>)| {
                    taken.iter().map(|&seat| (person, seat)).collect::<Vec<_>>()
                };
                seats.iter().flat_map(each).collect()
            };
            for seats in seats.chunks(RENEWED_AT_ONCE) {
                let until = now_ms() + SEAT_PERIOD.as_millis() as u64;
                let mut pipeline = redis::pipe();
                for &(person, seat) in seats {
                    let key = keys::sessions_of(person);
                    pipeline.cmd("ZADD").arg(&key).arg(until).arg(seat).ignore();
                    pipeline
                        .cmd("PEXPIRE")
                        .arg(&key)
                        .arg(SEAT_PERIOD.as_millis() as u64)
                        .ignore();
                }
                let mut commands = self.commands.clone();
                if let Err(error) = pipeline.query_async::<()>(&mut commands).await {
                    tracing::debug!(%error, "sessions were not renewed");
                }
            }
        }
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_millis() as u64
}

fn take_turn_here<K: Eq + Hash>(
    buckets: &mut HashMap<K, Instant>,
    bucket: K,
    now: Instant,
) -> bool {
    buckets.retain(|_, free| *free > now);
    if buckets.contains_key(&bucket) || buckets.len() >= BOTS_MAX {
        return false;
    }
    buckets.insert(bucket, now + BUCKET_PERIOD);
    true
}

/// The number of this start in its day; `None` if it cannot be counted.
fn count_here<K: Eq + Hash>(
    days: &mut HashMap<K, (Instant, u32)>,
    bot: K,
    now: Instant,
) -> Option<u32> {
    days.retain(|_, (began, _)| now.duration_since(*began) < PERIOD);
    if days.len() >= BOTS_MAX && !days.contains_key(&bot) {
        return None;
    }
    let (_, count) = days.entry(bot).or_insert((now, 0));
    *count = count.saturating_add(1);
    Some(*count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_free_again_after_its_period() {
        let (mut buckets, now) = (HashMap::new(), Instant::now());
        assert!(take_turn_here(&mut buckets, 1, now));
        assert!(!take_turn_here(&mut buckets, 1, now));
        assert!(take_turn_here(&mut buckets, 2, now));
        assert!(take_turn_here(&mut buckets, 1, now + BUCKET_PERIOD));
    }

    #[test]
    fn a_day_begins_with_its_first_start() {
        let (mut days, now) = (HashMap::new(), Instant::now());
        assert_eq!(count_here(&mut days, 1, now), Some(1));
        let later = now + PERIOD - Duration::from_secs(1);
        assert_eq!(count_here(&mut days, 1, later), Some(2));
        assert_eq!(count_here(&mut days, 2, later), Some(1));
        assert_eq!(count_here(&mut days, 1, now + PERIOD), Some(1));
    }
}
