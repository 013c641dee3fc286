//! How often, and how many times at once, an account may identify. Spec: gateway.md › Identify
//! limits.
//!
//! Shared by all gateways through Redis; while it is away each process keeps its own counts,
//! so a cluster then allows as many times more as it has gateways. A person's session counts
//! for as long as its gateway says so: those of a gateway that died are forgotten soon. How long that
//! is goes by the server's clock, as gateways' own may differ.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::Hash,
    rc::Rc,
    sync::LazyLock,
    time::{Duration, Instant},
};

use guildhall_redis::Connection;
use guildhall_shared::{
    Id,
    gateway::session_starts::{self, PERIOD, PERSON_SESSIONS_MAX},
    id::marker::User,
    keys,
};
use redis::{FromRedisValue, Pipeline, RedisError, RedisResult, Script};
use rustc_hash::FxHashMap;
use tokio::time::sleep;

use super::redis::invoke_all;
use crate::{config::RateLimits, names::Seat};

/// One identify per account and bucket in this time.
const BUCKET_PERIOD: Duration = Duration::from_secs(5);
/// Buckets remembered while Redis is away. When full, nobody may identify.
const BUCKETS_MAX: usize = 65_536;
/// Time between looks for days that are over.
const DAYS_SWEEP_PERIOD: Duration = Duration::from_secs(60);
/// Bots whose day is remembered while Redis is away. When full, other bots are asked to come again.
const BOTS_MAX: usize = 65_536;
/// A person's session counts for this long after its gateway last spoke of it.
const SEAT_PERIOD: Duration = Duration::from_secs(180);
/// Time between signs of life: a third of it.
const SEAT_RENEWAL: Duration = Duration::from_secs(60);
/// Sessions renewed with one round trip.
const RENEWED_AT_ONCE: usize = 1000;

/// Lua: the functions `now()`, Unix milliseconds, and `keep(now)`, by which a session counts from then
/// on for a while.
const KEEP: &str = r"
    local function now()
        local time = redis.call('TIME')
        return time[1] * 1000 + math.floor(time[2] / 1000)
    end
    local function keep(now)
        redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
        redis.call('PEXPIRE', KEYS[1], ARGV[2])
    end
";

/// A session of a person goes on.
static KEEP_SEAT: LazyLock<Script> =
    LazyLock::new(|| Script::new(&format!("{KEEP} keep(now()) return 1")));

/// One begins; 0 if there are as many as there may be. Asked again, as an answer was lost, it counts once.
static TAKE_SEAT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        r"{KEEP}
        local now = now()
        redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
        redis.call('ZREM', KEYS[1], ARGV[1])
        if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then
            return 0
        end
        keep(now)
        return 1
        "
    ))
});

/// A session of a bot that is to start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub(crate) bot: Id<User>,
    pub(crate) shard: u32,
    /// Guilds that the bot is in, on all its shards.
    pub(crate) guilds: usize,
}

/// Whether it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Started {
    Yes,
    /// Its bucket is not free yet, or its start cannot be counted now.
    NotYet,
    /// It is one too many for the day.
    NotToday,
}

/// Accounts identify side by side in their buckets; a person has only the first.
type Bucket = (Id<User>, u32);

pub(crate) struct StartLimits {
    commands: Connection,
    concurrency: u32,
    /// Whether people have a bucket.
    people: RateLimits,
    /// Stands in for Redis.
    buckets: RefCell<Buckets<Bucket>>,
    /// Stands in for Redis.
    days: RefCell<Days<Id<User>>>,
    /// Sessions of people on this node.
    seats: RefCell<FxHashMap<Id<User>, Vec<Seat>>>,
}

impl StartLimits {
    pub(crate) fn new(commands: Connection, concurrency: u16, people: RateLimits) -> Rc<Self> {
        Rc::new(Self {
            commands,
            concurrency: u32::from(concurrency.max(1)),
            people,
            buckets: RefCell::new(Buckets::new(Instant::now())),
            days: RefCell::new(Days::new(Instant::now())),
            seats: RefCell::default(),
        })
    }

    /// Lets sessions of bots start, in this order: each takes its shard's turn, if its bucket is
    /// free, and is then counted.
    pub(crate) async fn start(&self, starts: &[Start]) -> Vec<Started> {
        let bucket = |start: &Start| (start.bot, start.shard % self.concurrency);
        let buckets: Vec<Bucket> = starts.iter().map(bucket).collect();
        let turns = self.take_turns(&buckets).await;
        let taken = starts.iter().zip(&turns).filter(|(_, taken)| **taken);
        let bots: Vec<Id<User>> = taken.map(|(start, _)| start.bot).collect();
        let counts = self.count_starts(&bots).await;
        started(starts, &turns, &counts)
    }

    /// Whether it is the turn of each of these people, who then has to wait for the next one.
    pub(crate) async fn take_turns_of(&self, people: &[Id<User>]) -> Vec<bool> {
        match self.people {
            RateLimits::On => {
                let buckets: Vec<Bucket> = people.iter().map(|&person| (person, 0)).collect();
                self.take_turns(&buckets).await
            }
            RateLimits::Off => vec![true; people.len()],
        }
    }

    /// Which of them were free, and are taken now.
    async fn take_turns(&self, wanted: &[Bucket]) -> Vec<bool> {
        let mut pipeline = Pipeline::with_capacity(wanted.len());
        for (account, bucket) in wanted {
            pipeline
                .cmd("SET")
                .arg(keys::rate_limit(&format!("identify:{account}:{bucket}")))
                .arg(1)
                .arg("NX")
                .arg("PX")
                .arg(BUCKET_PERIOD.as_millis() as u64);
        }
        let answers = self.answers::<bool>(pipeline, wanted.len()).await;
        let mut buckets = self.buckets.borrow_mut();
        let now = Instant::now();
        let answers = wanted.iter().zip(answers);
        answers
            .map(|(&bucket, taken)| match taken {
                Some(taken) => taken,
                // Kept by this process alone.
                None => buckets.take(bucket, now),
            })
            .collect()
    }

    /// Counts a session start of each of these bots; `None` if it cannot be counted.
    async fn count_starts(&self, bots: &[Id<User>]) -> Vec<Option<u32>> {
        let mut pipeline = Pipeline::with_capacity(2 * bots.len());
        for &bot in bots {
            let key = keys::session_starts(bot);
            pipeline.cmd("INCR").arg(&key);
            // The first start begins the day.
            pipeline
                .cmd("PEXPIRE")
                .arg(&key)
                .arg(PERIOD.as_millis() as u64)
                .arg("NX")
                .ignore();
        }
        let answers = self.answers::<u32>(pipeline, bots.len()).await;
        let mut days = self.days.borrow_mut();
        let now = Instant::now();
        let answers = bots.iter().zip(answers);
        answers
            .map(|(&bot, count)| match count {
                Some(count) => Some(count),
                // By this process alone.
                None => days.count(bot, now),
            })
            .collect()
    }

    /// What Redis answers to so many commands; `None` where it has no answer.
    async fn answers<T: FromRedisValue>(
        &self,
        mut pipeline: Pipeline,
        count: usize,
    ) -> Vec<Option<T>> {
        if count == 0 {
            return Vec::new();
        }
        let mut commands = self.commands.clone();
        // One key that is not what it should be is nobody else's trouble.
        let pipeline = pipeline.ignore_errors();
        let answers: RedisResult<Vec<RedisResult<T>>> = pipeline.query_async(&mut commands).await;
        let no_answer = |error: &RedisError| {
            tracing::debug!(%error, "identify limit kept by this process alone");
        };
        let answers = answers.inspect_err(no_answer).unwrap_or_default();
        let answers = answers.into_iter();
        let mut answers: Vec<Option<T>> = answers
            .map(|answer| answer.inspect_err(no_answer).ok())
            .collect();
        answers.resize_with(count, || None);
        answers
    }

    /// Counts a session of a person; `None` if there are as many as there may be.
    pub(crate) async fn take_seat(&self, person: Id<User>) -> Option<Seat> {
        let seat: Seat = rand::random();
        let here = self.seats.borrow().get(&person).map_or(0, Vec::len);
        if here >= PERSON_SESSIONS_MAX {
            return None;
        }
        let mut commands = self.commands.clone();
        let taken: RedisResult<bool> = TAKE_SEAT
            .key(keys::sessions_of(person))
            .arg(seat)
            .arg(SEAT_PERIOD.as_millis() as u64)
            .arg(PERSON_SESSIONS_MAX)
            .invoke_async(&mut commands)
            .await;
        match taken {
            Ok(false) => return None,
            Ok(true) => {}
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

    #[cfg(test)]
    pub(super) fn has_seats(&self) -> bool {
        !self.seats.borrow().is_empty()
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
                let mut pipeline = redis::pipe();
                for &(person, seat) in seats {
                    let mut keep = KEEP_SEAT.key(keys::sessions_of(person));
                    keep.arg(seat).arg(SEAT_PERIOD.as_millis() as u64);
                    pipeline.invoke_script(&keep);
                }
                let mut commands = self.commands.clone();
                let kept = invoke_all::<bool>(&mut commands, &KEEP_SEAT, &mut pipeline);
                if let Err(error) = kept.await {
                    tracing::debug!(%error, "sessions were not renewed");
                }
            }
        }
    }
}

/// What becomes of starts, by whose turn it was and, of these, which number each is in its day.
fn started(starts: &[Start], turns: &[bool], counts: &[Option<u32>]) -> Vec<Started> {
    let mut counts = counts.iter().copied();
    let starts = starts.iter().zip(turns);
    starts
        .map(|(start, taken)| {
            if !taken {
                return Started::NotYet;
            }
            match counts.next().flatten() {
                Some(count) if count <= session_starts::total(start.guilds) => Started::Yes,
                Some(_) => Started::NotToday,
                // Its client would never come again after 4004, and nothing is wrong with it.
                None => Started::NotYet,
            }
        })
        .collect()
}

/// Buckets that this process has seen taken.
struct Buckets<K> {
    /// When each is free again.
    free_at: HashMap<K, Instant>,
    /// When those that are free by then are forgotten: not at each IDENTIFY of a storm.
    sweep_at: Instant,
}

impl<K: Eq + Hash> Buckets<K> {
    fn new(now: Instant) -> Self {
        Self {
            free_at: HashMap::new(),
            sweep_at: now + BUCKET_PERIOD,
        }
    }

    /// Whether a bucket was free; it is taken now.
    fn take(&mut self, bucket: K, now: Instant) -> bool {
        if now >= self.sweep_at {
            self.free_at.retain(|_, free_at| *free_at > now);
            self.sweep_at = now + BUCKET_PERIOD;
        }
        let is_taken = self.free_at.get(&bucket).is_some_and(|&at| at > now);
        if is_taken || self.free_at.len() >= BUCKETS_MAX {
            return false;
        }
        self.free_at.insert(bucket, now + BUCKET_PERIOD);
        true
    }
}

/// Session starts of bots that this process has counted.
struct Days<K> {
    /// When a bot's day began, and its sessions since.
    by_bot: HashMap<K, (Instant, u32)>,
    /// When days that are over by then are forgotten: not at each IDENTIFY of a storm.
    sweep_at: Instant,
}

impl<K: Eq + Hash> Days<K> {
    fn new(now: Instant) -> Self {
        Self {
            by_bot: HashMap::new(),
            sweep_at: now + DAYS_SWEEP_PERIOD,
        }
    }

    /// The number of this start in its day; `None` if it cannot be counted.
    fn count(&mut self, bot: K, now: Instant) -> Option<u32> {
        let is_over = |began: Instant| now.duration_since(began) >= PERIOD;
        if now >= self.sweep_at {
            self.by_bot.retain(|_, (began, _)| !is_over(*began));
            self.sweep_at = now + DAYS_SWEEP_PERIOD;
        }
        if self.by_bot.len() >= BOTS_MAX && !self.by_bot.contains_key(&bot) {
            return None;
        }
        let day = self.by_bot.entry(bot).or_insert((now, 0));
        if is_over(day.0) {
            *day = (now, 0);
        }
        day.1 = day.1.saturating_add(1);
        Some(day.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whose_turn_it_is_was_counted() {
        let start = |bot, guilds| Start {
            bot: Id::new(bot).unwrap(),
            shard: 0,
            guilds,
        };
        let starts = [
            start(1, 1),
            start(1, 1),
            start(2, 1),
            start(3, 200_000),
            start(4, 1),
        ];
        let turns = [true, false, true, true, true];
        let counts = [Some(1000), Some(1001), Some(1001), None];
        assert_eq!(
            started(&starts, &turns, &counts),
            [
                Started::Yes,
                Started::NotYet,
                Started::NotToday,
                Started::Yes,
                Started::NotYet,
            ]
        );
    }

    #[test]
    fn a_bucket_is_free_again_after_its_period() {
        let t0 = Instant::now();
        let mut buckets = Buckets::new(t0);
        let later = t0 + BUCKET_PERIOD / 2;
        assert!(buckets.take(1, t0));
        assert!(!buckets.take(1, later));
        assert!(buckets.take(2, later));
        assert!(buckets.take(1, t0 + BUCKET_PERIOD));
        assert!(!buckets.take(2, t0 + BUCKET_PERIOD));
        assert!(buckets.take(2, later + BUCKET_PERIOD));
        // The others are forgotten, as they are free.
        assert!(buckets.take(3, t0 + 3 * BUCKET_PERIOD));
        assert_eq!(buckets.free_at.len(), 1);
    }

    #[test]
    fn when_no_further_bucket_can_be_remembered_nobody_identifies() {
        let t0 = Instant::now();
        let mut buckets = Buckets::new(t0);
        assert!((0..BUCKETS_MAX).all(|bucket| buckets.take(bucket, t0)));
        assert!(!buckets.take(BUCKETS_MAX, t0));
        assert!(buckets.take(BUCKETS_MAX, t0 + BUCKET_PERIOD));
    }

    #[test]
    fn a_day_begins_with_its_first_start() {
        let now = Instant::now();
        let mut days = Days::new(now);
        assert_eq!(days.count(1, now), Some(1));
        let later = now + PERIOD - Duration::from_secs(1);
        assert_eq!(days.count(1, later), Some(2));
        assert_eq!(days.count(2, later), Some(1));
        assert_eq!(days.count(1, now + PERIOD), Some(1));
    }

    #[test]
    fn days_that_are_over_are_looked_for_now_and_then() {
        let now = Instant::now();
        let mut days = Days::new(now);
        let sweep = now + PERIOD - Duration::from_secs(1);
        assert_eq!(days.count(1, now), Some(1));
        assert_eq!(days.count(2, sweep), Some(1));
        // Not swept yet: its own day is over all the same.
        let later = now + PERIOD;
        assert_eq!(days.count(2, later), Some(2));
        assert_eq!(days.by_bot.len(), 2);
        assert_eq!(days.count(1, later), Some(1));
        assert_eq!(days.count(3, later + PERIOD), Some(1));
        assert_eq!(days.by_bot.len(), 1);
    }

    #[test]
    fn when_no_further_bot_can_be_remembered_others_come_again() {
        let now = Instant::now();
        let mut days = Days::new(now);
        assert!((0..BOTS_MAX).all(|bot| days.count(bot, now) == Some(1)));
        assert_eq!(days.count(BOTS_MAX, now), None);
        assert_eq!(days.count(0, now), Some(2));
        assert_eq!(days.count(BOTS_MAX, now + PERIOD), Some(1));
    }
}
