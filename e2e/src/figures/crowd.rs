//! Clients that resume, and the comparison of each of their frames with the log: as
//! `cargo xtask chaos` does it, by the same parts.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use sqlx::PgPool;
use tokio::time::{Instant, sleep};

use super::table::{Op9, Wrong};
use super::town::Town;
use crate::chaos::checker::{self, History, Millis, SessionHistory, What, Write, fingerprint};
use crate::chaos::listener::{Bodies, Listener, Listening, WentOn};
use crate::chaos::recorder::{self, Recorder};
use crate::chaos::{self, world};
use crate::cluster::Cluster;
use crate::wait::{LOOK, NEVER};
use crate::world::Account;

/// For what was written last to reach everybody.
const ARRIVAL_MAX: Duration = Duration::from_secs(20);

/// A guild whose log is copied.
pub(super) struct Watched<'a> {
    pub(super) id: &'a str,
    pub(super) owner: &'a Account,
    /// Who is in it, by id.
    pub(super) members: Vec<u64>,
}

pub(super) struct Crowd {
    db: PgPool,
    recorder: Recorder,
    bodies: Arc<Bodies>,
    pub(super) listeners: Vec<Listener>,
    /// Guilds and who is in them.
    guilds: Vec<(u64, Vec<u64>)>,
}

/// How it went.
pub(super) struct Checked {
    pub(super) wrong: Wrong,
    /// MESSAGE_CREATEs that clients got.
    pub(super) deliveries: u64,
    /// Dispatches of any kind that came to somebody who might not see them.
    pub(super) leaked: u64,
}

impl Crowd {
    /// Copies the guilds' logs from now on, when nobody writes, and starts the clients; all are
    /// logged in.
    pub(super) async fn gather(
        cluster: &Cluster,
        watched: &[Watched<'_>],
        clients: Vec<Listening>,
    ) -> Result<Self> {
        let db = cluster.db().await?;
        let (mut bases, mut guilds) = (Vec::new(), Vec::new());
        for guild in watched {
            let id = world::guild_id(guild.id)? as u64;
            bases.push((id, world::base(guild.owner, guild.id, &db).await?));
            guilds.push((id, guild.members.clone()));
        }
        let recorder = Recorder::start(db.clone(), bases);
        let bodies = Arc::new(Bodies::default());
        let listeners: Vec<Listener> = clients
            .into_iter()
            .map(|how| Listener::start(how, Arc::clone(&bodies)))
            .collect();
        chaos::settle(&listeners, "at the start").await?;
        Ok(Self {
            db,
            recorder,
            bodies,
            listeners,
            guilds,
        })
    }

    /// Clients of everybody in a town, so many each, all at one gateway.
    pub(super) async fn of_town(
        cluster: &Cluster,
        town: &Town,
        each: usize,
        gateway: usize,
    ) -> Result<Self> {
        let id = |person: usize| town.people[person].id.parse::<u64>().unwrap_or_default();
        let ids: Vec<String> = town.guilds.iter().map(|one| one.id.to_string()).collect();
        let watched: Vec<Watched<'_>> = town
            .guilds
            .iter()
            .zip(&ids)
            .map(|(guild, text)| Watched {
                id: text,
                owner: town.owner(guild),
                members: guild.members.map(id).to_vec(),
            })
            .collect();
        let mut clients = Vec::new();
        for account in &town.people {
            for number in 0..each {
                clients.push(client(cluster, account, number, None, gateway));
            }
        }
        Self::gather(cluster, &watched, clients).await
    }

    /// Waits until the clients with these places have gone on after `since`, or give up the hope.
    pub(super) async fn gone_on(
        &self,
        places: &[usize],
        since: Millis,
    ) -> Vec<(usize, Option<WentOn>)> {
        let end = Instant::now() + NEVER;
        loop {
            let how: Vec<(usize, Option<WentOn>)> = places
                .iter()
                .map(|&place| (place, self.listeners[place].went_on(since)))
                .collect();
            if how.iter().all(|(_, how)| how.is_some()) || Instant::now() >= end {
                return how;
            }
            sleep(LOOK).await;
        }
    }

    /// Places of the clients at a gateway.
    pub(super) fn at(&self, gateway: usize) -> Vec<usize> {
        let there = self.listeners.iter().enumerate();
        there
            .filter(|(_, one)| one.is_up() && one.node() == Some(gateway))
            .map(|(place, _)| place)
            .collect()
    }

    /// What clients have written down so far.
    pub(super) fn filed(&self) -> usize {
        self.listeners.iter().map(Listener::filed).sum()
    }

    /// Ends all clients and compares. Whoever writes has ended.
    pub(super) async fn finish(self, writes: Vec<Write>, op9: Op9) -> Result<Checked> {
        self.arrived().await?;
        let guilds: Vec<i64> = self.guilds.iter().map(|(id, _)| *id as i64).collect();
        let history = History {
            guilds: self.recorder.finish().await?,
            sessions: self.listeners.into_iter().map(Listener::finish).collect(),
            writes,
            stored: chaos::stored(&self.db, &guilds).await?,
            troubles: Vec::new(),
            bodies: self.bodies.take(),
        };
        let messages = |session: &SessionHistory| -> usize {
            let is_message = |what: &What| match what {
                What::Dispatch { said, .. } => {
                    let body = history.bodies.get(said);
                    body.is_some_and(|body| body.t == "MESSAGE_CREATE")
                }
                _ => false,
            };
            let records = session.records.iter();
            records.filter(|record| is_message(&record.what)).count()
        };
        let deliveries: usize = history.sessions.iter().map(messages).sum();
        let verdict = checker::check(&history);
        Ok(Checked {
            wrong: Wrong::of(&verdict, op9),
            deliveries: deliveries as u64,
            leaked: verdict.count(checker::Kind::Leaked),
        })
    }

    /// Waits until the newest message of each guild has reached everybody in it. If it never does,
    /// the checker says what they lack.
    async fn arrived(&self) -> Result<()> {
        let mut newest = Vec::new();
        for (guild, members) in &self.guilds {
            let events = recorder::newest(&self.db, *guild as i64).await?;
            let last = events
                .into_iter()
                .rev()
                .find(|event| event.kind == "MESSAGE_CREATE");
            let Some(last) = last else { continue };
            let full = fingerprint(last.kind, &last.body);
            let blank = last.alt.map_or(full, |alt| fingerprint(last.kind, &alt));
            newest.push((members, full, blank));
        }
        let lacks = |one: &Listener| {
            let mut his = newest
                .iter()
                .filter(|(members, ..)| members.contains(&one.user()));
            his.any(|(_, full, blank)| !one.heard(*full) && !one.heard(*blank))
        };
        let end = Instant::now() + ARRIVAL_MAX;
        while self.listeners.iter().any(lacks) && Instant::now() < end {
            sleep(LOOK).await;
        }
        Ok(())
    }
}

/// A client of an account that begins at a gateway.
pub(super) fn client(
    cluster: &Cluster,
    account: &Account,
    number: usize,
    intents: Option<u32>,
    gateway: usize,
) -> Listening {
    Listening {
        name: format!("{} ({number})", account.name),
        user: account.id.parse().unwrap_or_default(),
        token: account.token.clone(),
        intents,
        urls: cluster.urls(0),
        first: gateway,
        roams: false,
    }
}
