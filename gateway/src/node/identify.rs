//! IDENTIFY: who is it, may they, and not too often. Spec: gateway.md › IDENTIFY, in its
//! order of checks from the token on.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use guildhall_redis::Connection;
use guildhall_shared::{
    Id,
    envelope::Envelope,
    gateway::{CloseCode, Intents},
    id::marker::{Guild, User},
    model::{Presence, PrivateChannel, RelationshipKind, SessionState},
    shard::bot_shard,
    token::Token,
};
use guildhall_store::{
    account,
    events::{self, Span},
    personal::Personal,
};
use sqlx::PgPool;
use tokio::time::sleep;

use super::{
    database,
    identities::{self, Identities},
    metrics::Metrics,
    owner::people::people,
    start_limits::StartLimits,
};
use crate::bus::{IdentifyRequest, Identity, NotResumed, Refused};

/// Guilds a bot may have on one of its shards.
const GUILDS_PER_SHARD_MAX: usize = 2500;
/// Reads of one IDENTIFY before the client is asked to come again.
const ATTEMPTS: u32 = 2;
/// Pause between them.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// IDENTIFYs at work at once. When full, further ones are asked to come again.
const AT_WORK_MAX: usize = 4096;
/// Messages looked through for one READY; calls by further ones are not in it.
const MISSED_MAX: u32 = 10_000;

pub(crate) struct Identifier {
    db: PgPool,
    commands: Connection,
    limits: Rc<StartLimits>,
    metrics: Metrics,
    at_work: Cell<usize>,
    identities: Identities,
}

impl Identifier {
    pub(crate) fn new(
        db: PgPool,
        commands: Connection,
        limits: Rc<StartLimits>,
        metrics: Metrics,
    ) -> Self {
        Self {
            db,
            commands,
            limits,
            metrics,
            at_work: Cell::new(0),
            identities: Identities::default(),
        }
    }

    pub(crate) async fn identify(
        &self,
        request: &IdentifyRequest,
    ) -> Result<Box<Identity>, Refused> {
        let result = if self.at_work.get() >= AT_WORK_MAX {
            Err(Refused::TryLater)
        } else {
            self.at_work.set(self.at_work.get() + 1);
            let result = self.checked(request).await;
            self.at_work.set(self.at_work.get() - 1);
            result
        };
        let label = match &result {
            Ok(_) => "ok",
            Err(Refused::TryLater) => "later",
            Err(Refused::Close(_)) => "closed",
        };
        self.metrics.identifies.with_label_values(&[label]).inc();
        result
    }

    /// Whether a token is anybody's. While the database is away every token may be: the
    /// client is then told to identify, where it is looked up again.
    async fn is_token(&self, token: &Token) -> bool {
        match database::limited(account::by_token(&self.db, token.hash())).await {
            Ok(account) => account.is_some(),
            Err(error) => {
                tracing::warn!(%error, "token not checked");
                true
            }
        }
    }

    /// Why a RESUME found nothing, as far as its token tells.
    pub(crate) async fn why_not(&self, token: &Token) -> NotResumed {
        if self.is_token(token).await {
            NotResumed::Gone
        } else {
            NotResumed::UnknownToken
        }
    }

    /// Messages that a READY has to count. Without the database it counts none of them.
    pub(crate) async fn messages_between(&self, spans: &[Span]) -> Vec<Envelope> {
        let read = events::messages_between(&self.db, spans, MISSED_MAX);
        match database::limited(read).await {
            Ok(messages) => messages,
            Err(error) => {
                tracing::warn!(%error, "messages before a READY are not counted");
                Vec::new()
            }
        }
    }

    async fn checked(&self, request: &IdentifyRequest) -> Result<Box<Identity>, Refused> {
        let token = request.token.hash();
        let found = self.account(&request.token).await?;
        let Some(found) = found else {
            return Err(Refused::Close(CloseCode::AuthenticationFailed));
        };
        let user = &found.user.user;
        let mut guilds = found.guilds;
        let mut seat = None;
        if user.bot {
            let all = guilds.len();
            let flags = found.application.map_or(0, |(_, flags)| flags);
            guilds =
                allowed(guilds, request.shard, request.intents, flags).map_err(Refused::Close)?;
            if !self.limits.take_turn(user.id, request.shard.0).await {
                return Err(Refused::TryLater);
            }
            if !self.limits.count_start(user.id, all).await {
                // Until the day is over: a code that libraries do not try again after.
                return Err(Refused::Close(CloseCode::AuthenticationFailed));
            }
        } else {
            seat = self.limits.take_seat(user.id).await;
            if seat.is_none() {
                return Err(Refused::Close(CloseCode::TooManySessions));
            }
        }
        let personal = found.personal.as_deref();
        let company = self.company(found.user.user.id, personal, &found.private_channels);
        let (presences, sessions) = company.await;
        Ok(Box::new(Identity {
            presences,
            sessions,
            user: found.user,
            token,
            intents: request.intents.unwrap_or_default(),
            application: found.application,
            position: found.position,
            private_channels: found.private_channels,
            guilds,
            personal: found.personal,
            seat,
        }))
    }

    /// Who a token belongs to. Of a bot that was read a moment ago only what no event of its
    /// realm tells is read again: whether the token still stands, and the application's flags.
    async fn account(&self, token: &Token) -> Result<Option<account::Identity>, Refused> {
        // From before the read: what is remembered is never newer than it says.
        let (hash, began) = (token.hash(), Instant::now());
        let known = self.identities.get(hash, began);
        for attempt in 1.. {
            let read = match &known {
                Some(known) => database::limited(account::by_token(&self.db, hash))
                    .await
                    .map(|account| account.map(|account| renewed(known, account))),
                None => database::limited(account::identify(&self.db, hash)).await,
            };
            match read {
                Ok(found) => {
                    if known.is_none()
                        && let Some(found) = &found
                    {
                        self.identities.put(hash, found, began);
                    }
                    return Ok(found);
                }
                Err(error) => tracing::warn!(%error, "identify not read"),
            }
            if attempt >= ATTEMPTS {
                break;
            }
            sleep(RETRY_AFTER).await;
        }
        Err(Refused::TryLater)
    }

    /// Gives back the memory of identities that are too old, as long as the task lives.
    pub(crate) async fn sweep(self: Rc<Self>) {
        loop {
            sleep(identities::AGE_MAX).await;
            self.identities.sweep(Instant::now());
        }
    }

    /// Of people: who of their friends and partners is online, and their own other sessions.
    /// Nobody and none while Redis is away.
    async fn company(
        &self,
        own: Id<User>,
        personal: Option<&Personal>,
        private_channels: &[PrivateChannel],
    ) -> (Vec<(Id<User>, Presence)>, Vec<SessionState>) {
        let Some(personal) = personal else {
            return Default::default();
        };
        let friends = personal.relationships.iter();
        let friends = friends.filter(|one| one.kind == RelationshipKind::Friend);
        let partners = private_channels.iter();
        let partners = partners.flat_map(|channel| &channel.recipients);
        let mut users: Vec<Id<User>> = friends.map(|friend| friend.user.id).collect();
        users.extend(partners.map(|partner| partner.id));
        users.push(own);
        users.sort_unstable();
        users.dedup();
        let mut commands = self.commands.clone();
        match people(&mut commands, &users).await {
            Ok(mut people) => {
                let sessions = people.remove(&own).map(|own| own.sessions);
                let people = people.into_iter();
                let online = people.filter(|(_, person)| !person.presence.is_offline());
                let presences = online.map(|(user, person)| (user, person.presence));
                (presences.collect(), sessions.unwrap_or_default())
            }
            Err(error) => {
                tracing::debug!(%error, "presences of friends not read");
                Default::default()
            }
        }
    }
}

/// What is remembered, with what was read just now. Its guilds are those at its position: the events
/// after it follow READY.
fn renewed(known: &account::Identity, account: account::Account) -> account::Identity {
    account::Identity {
        user: account.user,
        application: account.application,
        ..known.clone()
    }
}

/// The guilds of a bot's shard, if it may identify on it.
fn allowed(
    guilds: Vec<Id<Guild>>,
    (shard, count): (u32, u32),
    intents: Option<Intents>,
    flags: u64,
) -> Result<Vec<Id<Guild>>, CloseCode> {
    let mut guilds = guilds;
    guilds.retain(|&guild| bot_shard(guild, count) == shard);
    if guilds.len() > GUILDS_PER_SHARD_MAX {
        return Err(CloseCode::ShardingRequired);
    }
    let intents = intents.ok_or(CloseCode::InvalidIntents)?;
    if Intents::allowed_by_application(flags).contains(intents) {
        Ok(guilds)
    } else {
        Err(CloseCode::DisallowedIntents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guilds(count: u64) -> Vec<Id<Guild>> {
        (1..=count).filter_map(|n| Id::new(n << 22)).collect()
    }

    #[test]
    fn a_bot_gets_the_guilds_of_its_shard() {
        let intents = Some(Intents::GUILDS);
        assert_eq!(
            allowed(guilds(4), (1, 2), intents, 0),
            Ok(vec![Id::new(1 << 22).unwrap(), Id::new(3 << 22).unwrap()])
        );
    }

    #[test]
    fn checks_come_in_the_documented_order() {
        let all = Some(Intents::all());
        assert_eq!(
            allowed(guilds(2501), (0, 1), None, 0),
            Err(CloseCode::ShardingRequired)
        );
        assert!(allowed(guilds(2501), (0, 2), Some(Intents::GUILDS), 0).is_ok());
        assert_eq!(
            allowed(guilds(1), (0, 1), None, 0),
            Err(CloseCode::InvalidIntents)
        );
        assert_eq!(
            allowed(guilds(1), (0, 1), all, 0),
            Err(CloseCode::DisallowedIntents)
        );
        let flags = guildhall_shared::model::Application::FLAGS_NEW;
        assert!(allowed(guilds(1), (0, 1), all, flags).is_ok());
    }
}
