//! A desk without Postgres and Redis.

use std::sync::Arc;

use guildhall_shared::{Id, voice::VoiceSettings};
use guildhall_store::pool;
use prometheus::Registry;
use sqlx::postgres::PgConnectOptions;
use tokio::task::{LocalSet, yield_now};

use super::*;
use crate::{
    bus::VoiceRequest,
    codec::VoiceCommand,
    config::{RateLimits, ResumeLog},
    node::{
        ClusterKey, database::PATIENCE, metrics::Metrics, parts::Ways, redis, stored::Stored,
        travel::holders::Holder,
    },
    status::Status,
};

const BOOT: u32 = 7;

/// To be called in a [`LocalSet`].
fn desk() -> Desk {
    let config = Config {
        node_id: "a".to_owned(),
        boot: BOOT,
        resume: ResumeLog::Async,
        database_url: "postgres://127.0.0.1:1/none".to_owned().into(),
        redis_url: "redis://127.0.0.1:1".to_owned().into(),
        relay_listen: ([127, 0, 0, 1], 0).into(),
        relay_advertise: None,
        relay_public: false,
        gateway_url: String::new(),
        cluster_key: ClusterKey::new("key").unwrap(),
        shards: 4,
        identify_concurrency: 1,
        rate_limits: RateLimits::On,
        db_connections_max: 1,
        voice: VoiceSettings::default(),
        status: Arc::new(Status::default()),
        registry: Registry::new(),
    };
    let metrics = Metrics::register(&config.registry).unwrap();
    let postgres: PgConnectOptions = config.database_url.reveal().parse().unwrap();
    let db = pool::open(postgres, 1, PATIENCE);
    let client = redis::client(config.redis_url.reveal()).unwrap();
    let commands = client.connection().unwrap();
    let ways = Ways {
        stored: Stored::Postgres(db.clone()),
        client,
        commands: commands.clone(),
        logs: commands.clone(),
    };
    let cores: Rc<[CoreHandle]> = Vec::<CoreHandle>::new().into();
    let parts = Parts::new(&config, ways, &cores, metrics.clone());
    let voice = Voice::new(
        db.clone(),
        commands.clone(),
        config.shards,
        VoiceSettings::default(),
        cores.clone(),
    );
    let limits = StartLimits::new(commands.clone(), 1, RateLimits::On);
    let identifier = Identifier::new(db, commands, limits.clone(), cores.clone(), metrics);
    let accounts = Accounts::Postgres(Rc::new(identifier));
    Desk::new(&config, &parts, accounts, limits, voice, cores)
}

#[tokio::test]
async fn the_end_of_a_copy_is_not_the_end_of_its_session() {
    let test = async {
        let desk = desk();
        let (person, seat) = (Id::new(10).unwrap(), 5);
        let session = SessionId::new(BOOT, 0, [1; 10]);
        let here = Holder {
            generation: 2,
            boot: BOOT,
            core: 1,
        };
        desk.holders.came(session, here);
        desk.limits.adopt(person, seat);
        desk.voice.adopt(session.to_string());
        let end = |core| {
            let voice = VoiceRequest {
                session: SessionKey {
                    slot: 0,
                    generation: 1,
                },
                session_id: session.to_string(),
                user: person,
                command: VoiceCommand {
                    guild: Id::new(77 << 22).unwrap(),
                    channel: None,
                    self_mute: false,
                    self_deaf: false,
                    self_video: false,
                },
                ended: true,
            };
            [
                ToNode::Left {
                    core,
                    session: Some(session),
                    person,
                    seat,
                },
                ToNode::Ended { core, session },
                ToNode::Voice {
                    core,
                    request: voice,
                },
            ]
        };
        for (core, goes_on) in [(0, true), (1, false)] {
            end(core).into_iter().for_each(|request| desk.take(request));
            // What that has started runs.
            for _ in 0..10 {
                yield_now().await;
            }
            assert_eq!(desk.holders.generation(session) > 0, goes_on);
            assert_eq!(desk.limits.has_seats(), goes_on);
            assert_eq!(desk.voice.keeps_any(), goes_on);
        }
    };
    LocalSet::new().run_until(test).await;
}
