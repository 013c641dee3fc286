//! Which messages of a batch are stored, and under which numbers: decided under the heads' locks.

use guildhall_shared::{
    Id,
    id::marker::{Channel, Message, Realm, User},
};
use rustc_hash::FxHashMap;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{Job, NewMessage, Outcome};

/// A realm's head as locked, counted on by the messages of the batch.
#[derive(Debug, Clone, Copy)]
struct Head {
    shard: i32,
    era: i32,
    seq: i64,
    state_seq: u64,
}

/// The heads a batch depends on.
#[derive(Debug)]
pub(super) struct Heads {
    /// Locked.
    realms: FxHashMap<Id<Realm>, Head>,
    /// `state_seq` only, as committed when the statement began.
    authors: FxHashMap<Id<User>, u64>,
    /// When they were locked, by the database's clock.
    pub(super) at: OffsetDateTime,
}

/// Where an event got its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbered {
    pub(super) realm: Id<Realm>,
    /// Of the message's events the one that its row is stored with.
    pub(super) first: bool,
    pub(super) shard: i32,
    pub(super) era: i32,
    pub(super) seq: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// By realm, as the message names them.
    Store(Vec<Numbered>),
    Stale,
    Duplicate(Id<Message>),
}

impl Decision {
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Store(_) => Outcome::Stored,
            Self::Stale => Outcome::Stale,
            Self::Duplicate(first) => Outcome::Duplicate(first),
        }
    }
}

pub(super) type Nonces = FxHashMap<(Id<Channel>, Id<User>, String), Id<Message>>;

/// Decides in order of arrival, numbering what is to be stored.
pub(super) fn decide(batch: &[Job], heads: &mut Heads, mut nonces: Nonces) -> Vec<Decision> {
    let decisions = batch.iter().map(|Job { message, .. }| {
        let holds = |(realm, state_seq): &(Id<Realm>, u64)| {
            let head = heads.realms.get(realm);
            head.is_some_and(|head| head.state_seq == *state_seq)
        };
        if message.realms.is_empty()
            || !message.realms.iter().all(holds)
            || heads.authors.get(&message.author) != Some(&message.author_state_seq)
        {
            return Decision::Stale;
        }
        if let Some(nonce) = &message.nonce {
            let key = (message.channel, message.author, nonce.clone());
            if let Some(&first) = nonces.get(&key) {
                return Decision::Duplicate(first);
            }
            nonces.insert(key, message.id);
        }
        let numbers = message
            .realms
            .iter()
            .enumerate()
            .filter_map(|(at, (realm, _))| {
                let head = heads.realms.get_mut(realm)?;
                head.seq += 1;
                Some(Numbered {
                    realm: *realm,
                    first: at == 0,
                    shard: head.shard,
                    era: head.era,
                    seq: head.seq,
                })
            });
        Decision::Store(numbers.collect())
    });
    decisions.collect()
}

/// Locks the realms' heads, the smallest id first as everyone does, and reads the authors'.
pub(super) async fn lock_heads(db: &mut PgConnection, batch: &[Job]) -> sqlx::Result<Heads> {
    let realms = batch.iter().flat_map(|job| &job.message.realms);
    let realms = distinct(realms.map(|(realm, _)| realm.to_db()));
    let authors = distinct(batch.iter().map(|job| job.message.author.to_db()));
    let rows = sqlx::query!(
        r#"with locked as (
             select realm_id, shard, era, seq, state_seq from realm_head
             where realm_id = any($1) order by realm_id for update
           )
           select realm_id as "realm_id!", shard as "shard!", era as "era!", seq as "seq!",
                  state_seq as "state_seq!", true as "locked!", clock_timestamp() as "at!"
           from locked
           union all
           select realm_id, shard, era, seq, state_seq, false, clock_timestamp() from realm_head
           where realm_id = any($2)"#,
        &realms,
        &authors,
    )
    .fetch_all(db)
    .await?;
    let mut heads = Heads {
        realms: FxHashMap::default(),
        authors: FxHashMap::default(),
        // Said as each is locked: the last one counts. None at all store nothing.
        at: rows
            .iter()
            .map(|row| row.at)
            .max()
            .unwrap_or(OffsetDateTime::UNIX_EPOCH),
    };
    for row in rows {
        let state_seq = row.state_seq as u64;
        if row.locked {
            let head = Head {
                shard: row.shard,
                era: row.era,
                seq: row.seq,
                state_seq,
            };
            heads.realms.insert(Id::from_db(row.realm_id), head);
        } else {
            heads.authors.insert(Id::from_db(row.realm_id), state_seq);
        }
    }
    Ok(heads)
}

/// Which enforced nonces of the batch have made a message already. Asked under the lock,
/// and only if there are any.
pub(super) async fn known_nonces(db: &mut PgConnection, batch: &[Job]) -> sqlx::Result<Nonces> {
    let enforced: Vec<(&NewMessage, &str)> = batch
        .iter()
        .filter_map(|job| Some((&*job.message, job.message.nonce.as_deref()?)))
        .collect();
    if enforced.is_empty() {
        return Ok(Nonces::default());
    }
    let channels: Vec<i64> = enforced.iter().map(|(m, _)| m.channel.to_db()).collect();
    let authors: Vec<i64> = enforced.iter().map(|(m, _)| m.author.to_db()).collect();
    let nonces: Vec<&str> = enforced.iter().map(|(_, nonce)| *nonce).collect();
    let rows = sqlx::query!(
        "select n.channel_id, n.author_id, n.nonce, n.message_id
         from unnest($1::bigint[], $2::bigint[], $3::text[]) as asked (channel_id, author_id, nonce)
         join message_nonce n using (channel_id, author_id, nonce)",
        &channels,
        &authors,
        nonces.as_slice() as &[&str],
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let key = (
                Id::from_db(row.channel_id),
                Id::from_db(row.author_id),
                row.nonce,
            );
            (key, Id::from_db(row.message_id))
        })
        .collect())
}

fn distinct(ids: impl Iterator<Item = i64>) -> Vec<i64> {
    let mut ids: Vec<i64> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use guildhall_shared::{envelope::Visibility, gateway::Intents};
    use tokio::sync::oneshot;

    use super::*;

    fn id<T>(value: u64) -> Id<T> {
        Id::new(value).expect("test ids are not zero")
    }

    fn job(message: u64, guild: u64, state_seq: u64, nonce: Option<&str>) -> Job {
        let channel = id(guild + 1);
        Job {
            message: Box::new(NewMessage {
                realms: vec![(id(guild), state_seq)],
                in_thread: false,
                author: id(7),
                author_state_seq: 3,
                channel,
                id: id(message),
                kind: 0,
                flags: 0,
                content: String::new(),
                tts: false,
                mention_everyone: false,
                mentions: Vec::new(),
                mention_roles: Vec::new(),
                extra: None,
                nonce: nonce.map(str::to_owned),
                body: Bytes::new(),
                vis: Visibility::channel(channel, Intents::GUILD_MESSAGES),
                alt: None,
                trace: 0,
            }),
            answer: oneshot::channel().0,
        }
    }

    fn heads(author_state_seq: u64) -> Heads {
        let head = |seq, state_seq| Head {
            shard: 1,
            era: 2,
            seq,
            state_seq,
        };
        Heads {
            realms: [(id(100), head(9, 5)), (id(200), head(0, 0))]
                .into_iter()
                .collect(),
            authors: [(id(7), author_state_seq)].into_iter().collect(),
            at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    fn numbered(realm: u64, first: bool, seq: i64) -> Numbered {
        Numbered {
            realm: id(realm),
            first,
            shard: 1,
            era: 2,
            seq,
        }
    }

    fn store(realm: u64, seq: i64) -> Decision {
        Decision::Store(vec![numbered(realm, true, seq)])
    }

    #[test]
    fn a_message_of_many_realms_is_in_all_or_none() {
        let private = |message, seqs: [u64; 2]| {
            let mut job = job(message, 100, 5, None);
            job.message.realms = vec![(id(100), seqs[0]), (id(200), seqs[1])];
            job
        };
        let batch = [private(1, [5, 0]), private(2, [5, 1]), private(3, [5, 0])];
        let both = |a, b| Decision::Store(vec![numbered(100, true, a), numbered(200, false, b)]);
        assert_eq!(
            decide(&batch, &mut heads(3), Nonces::default()),
            [both(10, 1), Decision::Stale, both(11, 2)]
        );
    }

    #[test]
    fn numbers_go_on_per_guild_and_skip_what_is_not_stored() {
        let batch = [
            job(1, 100, 5, None),
            job(2, 200, 0, None),
            job(3, 100, 4, None),
            job(4, 300, 0, None),
            job(5, 100, 5, None),
        ];
        assert_eq!(
            decide(&batch, &mut heads(3), Nonces::default()),
            [
                store(100, 10),
                store(200, 1),
                Decision::Stale,
                Decision::Stale,
                store(100, 11)
            ]
        );
    }

    #[test]
    fn a_changed_account_makes_its_messages_stale() {
        let batch = [job(1, 100, 5, None)];
        assert_eq!(
            decide(&batch, &mut heads(4), Nonces::default()),
            [Decision::Stale]
        );
    }

    #[test]
    fn a_nonce_makes_one_message() {
        let batch = [
            job(1, 100, 5, Some("a")),
            job(2, 100, 5, Some("a")),
            job(3, 100, 5, Some("b")),
            job(4, 100, 4, Some("c")),
            job(5, 100, 5, Some("c")),
        ];
        let known = [((id(101), id(7), "b".to_owned()), id(90))];
        assert_eq!(
            decide(&batch, &mut heads(3), known.into_iter().collect()),
            [
                store(100, 10),
                Decision::Duplicate(id(1)),
                Decision::Duplicate(id(90)),
                Decision::Stale,
                store(100, 11)
            ]
        );
    }
}
