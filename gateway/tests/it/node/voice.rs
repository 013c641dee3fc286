//! Voice states, from op 4 to who is told.

use guildhall_gateway::{bus::VoiceRequest, codec::VoiceCommand};

use super::*;

const START_TIME: EventKind = EventKind::VoiceChannelStartTimeUpdate;

impl Node {
    /// Op 4 of a session of `world.owner`.
    async fn voice(&self, world: &World, slot: u32, channel: Option<Id<Channel>>) {
        let request = VoiceRequest {
            session: session(slot),
            session_id: format!("session {slot}"),
            user: world.owner,
            command: VoiceCommand {
                guild: world.guild,
                channel,
                self_mute: true,
                self_deaf: false,
                self_video: false,
            },
            ended: false,
        };
        let core = 0;
        let voice = ToNode::Voice { core, request };
        self.requests.send(voice).await.unwrap();
    }

    /// The next event, with the channel's start if it begins, and what a session alone is told, in
    /// whatever order they come.
    async fn voice_told(&self, begins: bool) -> (Arc<Envelope>, u32, Vec<(EventKind, Value)>) {
        let (mut event, mut told, mut begun) = (None, None, !begins);
        while event.is_none() || told.is_none() || !begun {
            match self.next().await {
                ToCore::Event(envelope) if envelope.kind == START_TIME => {
                    let body: Value = serde_json::from_slice(&envelope.body).unwrap();
                    assert!(body["voice_start_time"].as_i64() > Some(1_700_000_000));
                    begun = true;
                }
                ToCore::Event(envelope) => event = Some(envelope),
                ToCore::Tell {
                    session,
                    dispatches,
                    ..
                } => {
                    let bodies = dispatches.into_iter();
                    let bodies =
                        bodies.map(|(kind, body)| (kind, serde_json::from_slice(&body).unwrap()));
                    told = Some((session.slot, bodies.collect()));
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        let (slot, told) = told.unwrap();
        (event.unwrap(), slot, told)
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn voice_is_entered_taken_over_and_left(db: PgPool) {
    let world = World::new(db).await;
    sqlx::query("update channel set kind = 2 where channel_id = $1")
        .bind(world.open.to_db())
        .execute(&world.db)
        .await
        .unwrap();
    let node = Node::start(&world, "a");
    node.enter(world.subscription(&[world.owner], None)).await;

    node.voice(&world, 1, Some(world.open)).await;
    let (event, slot, told) = node.voice_told(true).await;
    assert_eq!(event.kind, EventKind::VoiceStateUpdate);
    assert_eq!(event.vis.scope, Scope::Channel(world.open));
    let body: Value = serde_json::from_slice(&event.body).unwrap();
    assert_eq!(body["session_id"], "session 1");
    assert_eq!(body["self_mute"], true);
    assert_eq!(body["member"]["user"]["id"], world.owner.to_string());
    assert_eq!(slot, 1);
    let [(EventKind::VoiceServerUpdate, server)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(server["endpoint"], "voice.test:443");
    assert_eq!(server["guild_id"], world.guild.to_string());

    // Another session takes the place over; the first one can no longer leave it.
    node.voice(&world, 2, Some(world.open)).await;
    let (event, slot, _) = node.voice_told(false).await;
    let body: Value = serde_json::from_slice(&event.body).unwrap();
    assert_eq!((slot, &body["session_id"]), (2, &json!("session 2")));
    node.voice(&world, 1, None).await;
    node.quiet().await;
    node.voice(&world, 2, None).await;
    let event = node.event().await;
    let body: Value = serde_json::from_slice(&event.body).unwrap();
    assert_eq!(body["channel_id"], Value::Null);
    let event = node.event().await;
    assert_eq!(event.kind, START_TIME);
    let body: Value = serde_json::from_slice(&event.body).unwrap();
    assert_eq!(body["voice_start_time"], Value::Null);
    let left: i64 = sqlx::query_scalar("select count(*) from voice_state")
        .fetch_one(&world.db)
        .await
        .unwrap();
    assert_eq!(left, 0);

    // The text channel it was before is none to enter.
    sqlx::query("update channel set kind = 0 where channel_id = $1")
        .bind(world.open.to_db())
        .execute(&world.db)
        .await
        .unwrap();
    node.voice(&world, 2, Some(world.open)).await;
    node.quiet().await;
}
