//! Questions of sessions to a guild's owner, here and over a link.

use std::collections::BTreeSet;

use guildhall_gateway::{
    ask::{Answers, Ask, ChannelFields, Members, Part, Question, Wanted, Wish},
    names::Address,
};

use super::*;

static NUMBER: AtomicU32 = AtomicU32::new(2);

/// A session that asks in the name of a user of its node.
struct Asker<'a> {
    node: &'a Node,
    guild: Id<Guild>,
    user: Id<User>,
    bot: bool,
    intents: Intents,
}

impl Asker<'_> {
    async fn send(&self, number: u32, question: Question) {
        let ask = Ask {
            number,
            guild: self.guild,
            from: Address {
                core: 0,
                session: session(1),
            },
            user: self.user,
            bot: self.bot,
            intents: self.intents.bits(),
            question,
        };
        let request = ToNode::Ask(Box::new(ask));
        self.node.requests.send(request).await.unwrap();
    }

    /// Asks as a core does: again when the guild's subscription is answered.
    async fn ask(&self, question: Question) -> (Answers, EventKind, Value) {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        self.send(number, question.clone()).await;
        loop {
            match self.node.next().await {
                ToCore::Tell {
                    answers,
                    dispatches,
                    ..
                } => {
                    let (kind, body) = &dispatches[0];
                    let body = serde_json::from_slice(body).unwrap();
                    let answers = answers.unwrap();
                    // Asked twice, answered twice.
                    if answers.number == number {
                        return (answers, *kind, body);
                    }
                }
                ToCore::Subscribed(_) => self.send(number, question.clone()).await,
                other => panic!("no answer, but {other:?}"),
            }
        }
    }

    async fn members(&self, wanted: Wanted) -> (Answers, Value) {
        let (answers, kind, body) = self.ask(members(wanted)).await;
        assert_eq!(kind, EventKind::GuildMembersChunk);
        assert_eq!(body["guild_id"], self.guild.to_string());
        assert_eq!(body["nonce"], "n");
        (answers, body)
    }
}

fn members(wanted: Wanted) -> Question {
    Question::Members(Box::new(Members {
        wanted,
        presences: true,
        nonce: Some("n".into()),
    }))
}

impl World {
    fn asker<'a>(&self, node: &'a Node) -> Asker<'a> {
        Asker {
            node,
            guild: self.guild,
            user: self.member,
            bot: true,
            intents: Intents::GUILD_MEMBERS,
        }
    }

    /// Adds members named `walker 1`, `walker 2` and so on, until there are `count`.
    pub(super) async fn crowd(&self, count: i64) {
        for sql in [
            "insert into account (user_id, username, global_name)
             select $1 + n, 'walker ' || n, 'Ä ' || n from generate_series(1, $3) n where $2 > 0
             on conflict do nothing",
            "insert into member (guild_id, user_id, nick)
             select $2, $1 + n, 'Nick ' || n from generate_series(1, $3) n
             on conflict do nothing",
            "update guild set member_count = 2 + $3 where guild_id = $2 and $1 > 0",
        ] {
            sqlx::query(sql)
                .bind(self.guild.to_db() + 100)
                .bind(self.guild.to_db())
                .bind(count)
                .execute(&self.db)
                .await
                .unwrap();
        }
    }
}

fn ids(body: &Value) -> Vec<Id<User>> {
    let members = body["members"].as_array().unwrap();
    members
        .iter()
        .map(|member| member["user"]["id"].as_str().unwrap().parse().unwrap())
        .collect()
}

/// Asks for all members, part by part as a core does, and says how many parts there were.
async fn all(asker: &Asker<'_>) -> (usize, Vec<Id<User>>) {
    let (first, body) = asker.members(Wanted::All(None)).await;
    let mut found = ids(&body);
    let count = first.ends.len() + 1;
    assert_eq!(body["chunk_index"], 0);
    assert_eq!(body["chunk_count"], count);
    for (place, &after) in first.ends.iter().enumerate() {
        let part = Part {
            index: place as u32 + 1,
            count: count as u32,
            after,
            to: first.ends.get(place + 1).copied(),
        };
        let (_, body) = asker.members(Wanted::All(Some(part))).await;
        assert_eq!(body["chunk_index"], place + 1);
        assert_eq!(body["chunk_count"], count);
        assert!(ids(&body).len() <= 1000);
        found.extend(ids(&body));
    }
    (count, found)
}

#[sqlx::test(migrations = "../migrations")]
async fn all_members_come_in_parts_of_1000(db: PgPool) {
    let world = World::new(db).await;
    for (members, parts) in [(1000, 1), (1001, 2), (2500, 3)] {
        world.crowd(members - 2).await;
        let node = Node::start(&world, "a");
        node.enter(world.subscription(&[world.member], None)).await;
        let (count, found) = all(&world.asker(&node)).await;
        assert_eq!(count, parts);
        let distinct: BTreeSet<_> = found.iter().copied().collect();
        let total = members as usize;
        assert_eq!((found.len(), distinct.len()), (total, total));
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn members_are_found_by_name_and_by_id(db: PgPool) {
    let world = World::new(db).await;
    world.crowd(3000).await;
    let node = Node::start(&world, "a");
    node.enter(world.subscription(&[world.member], None)).await;
    let asker = world.asker(&node);
    let prefix = |query: &str, limit| Wanted::Prefix {
        query: query.into(),
        limit,
    };
    for (query, found) in [
        ("WALKER 299", 11),
        ("ä 2999", 1),
        ("nIcK 2999", 1),
        ("x", 0),
        ("alker", 0),
    ] {
        let (_, body) = asker.members(prefix(query, 100)).await;
        assert_eq!(ids(&body).len(), found, "{query}");
        assert_eq!(body["chunk_count"], 1);
        assert!(body.get("not_found").is_none());
        // It has not asked for presences in its IDENTIFY.
        assert!(body.get("presences").is_none());
    }
    let (_, body) = asker.members(prefix("w", 7)).await;
    assert_eq!(ids(&body).len(), 7);

    let walker = Id::new(world.guild.get() + 101).unwrap();
    let stranger = Id::<User>::new(77).unwrap();
    let wishes = vec![
        Wish::User(walker),
        Wish::User(stranger),
        Wish::Junk("0".into()),
        Wish::Junk("\"x\"".into()),
        Wish::User(walker),
    ];
    let seeing = Asker {
        intents: Intents::GUILD_PRESENCES,
        ..asker
    };
    let (_, body) = seeing.members(Wanted::Ids(wishes)).await;
    assert_eq!(ids(&body), [walker]);
    assert_eq!(body["not_found"], json!(["77", 0, "x"]));
    assert!(body["presences"].is_array());
    let (_, body) = seeing.members(Wanted::Ids(Vec::new())).await;
    assert_eq!(body["not_found"], json!([]));
}

#[sqlx::test(migrations = "../migrations")]
async fn the_list_of_all_is_for_those_who_may_have_it(db: PgPool) {
    let world = World::new(db).await;
    let node = Node::start(&world, "a");
    node.enter(world.subscription(&[world.member, world.owner], None))
        .await;
    let asker = |user, bot, intents| Asker {
        user,
        bot,
        intents,
        ..world.asker(&node)
    };
    let beginning = || Wanted::Prefix {
        query: String::new(),
        limit: 5,
    };
    for (asker, may) in [
        (asker(world.member, true, Intents::GUILD_MEMBERS), true),
        (
            asker(world.member, true, Intents::all() - Intents::GUILD_MEMBERS),
            false,
        ),
        (asker(world.member, false, Intents::all()), false),
        (asker(world.owner, false, Intents::empty()), true),
    ] {
        for wanted in [Wanted::All(None), beginning()] {
            let (_, body) = asker.members(wanted).await;
            assert_eq!(ids(&body).len(), if may { 2 } else { 0 });
            assert_eq!(
                (&body["chunk_index"], &body["chunk_count"]),
                (&json!(0), &json!(1))
            );
        }
    }
    // One who is not in the guild is told nothing: the next answer is another one's.
    let stranger = asker(Id::new(5).unwrap(), true, Intents::all());
    stranger.send(1, Question::Sounds).await;
    let member = asker(world.member, true, Intents::empty());
    let (_, kind, _) = member.ask(Question::Sounds).await;
    assert_eq!(kind, EventKind::SoundboardSounds);
    node.quiet().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn an_owner_on_another_node_answers_over_the_link(db: PgPool) {
    let world = World::new(db).await;
    world.crowd(1500).await;
    let (a, b) = (Node::start(&world, "a"), Node::start(&world, "b"));
    world.publish_map(1, &[&a, &b], 1, None).await;
    a.subscribe(world.subscription(&[world.member], None)).await;
    // It may have been subscribed here before the map was known.
    while b.metric("node_questions_total") == 0.0 {
        let (count, found) = all(&world.asker(&a)).await;
        assert_eq!((count, found.len()), (2, 1502));
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn what_is_known_of_channels_is_told_to_who_sees_them(db: PgPool) {
    let world = World::new(db).await;
    let says = |status: &str| json!({"status": status, "voice_start_time": 1_700_000_000});
    let hidden = world.make_voice(1, world.hidden(), says("secret")).await;
    let voice = world.make_voice(2, json!([]), says("tea")).await;
    let node = Node::start(&world, "a");
    node.enter(world.subscription(&[world.member], None)).await;
    let asker = world.asker(&node);
    let (_, kind, body) = asker.ask(Question::ChannelStatuses).await;
    assert_eq!(kind, EventKind::ChannelStatuses);
    assert_eq!(body["channels"], json!([{"id": voice, "status": "tea"}]));

    let vis = Visibility::channel(voice, Intents::GUILDS);
    let change = json!({"id": voice, "guild_id": world.guild, "status": null});
    let kind = EventKind::VoiceChannelStatusUpdate;
    let event = world.store(kind, vis, &change).await;
    world.publish(&event).await;
    node.event().await;
    let fields = ChannelFields {
        status: true,
        voice_start_time: true,
    };
    let (_, kind, body) = asker.ask(Question::ChannelInfo(fields)).await;
    assert_eq!(kind, EventKind::ChannelInfo);
    let info = json!([{"id": voice, "status": null, "voice_start_time": 1_700_000_000}]);
    assert_eq!(body["channels"], info);

    for (channel, count) in [(voice, 2), (hidden, 0)] {
        let (_, kind, body) = asker.ask(Question::MemberCount { channel }).await;
        assert_eq!(kind, EventKind::ChannelMemberCountUpdate);
        assert_eq!(body["member_count"], count);
        assert_eq!(body["channel_id"], channel.to_string());
    }
}

/// One count is for all who wait for one of the same class, and for nobody who does not see it.
#[sqlx::test(migrations = "../migrations")]
async fn each_of_many_is_told_how_many_see_a_channel(db: PgPool) {
    let world = World::new(db).await;
    let hidden = world.make_voice(1, world.hidden(), json!({})).await;
    let voice = world.make_voice(2, json!([]), json!({})).await;
    let node = Node::start(&world, "a");
    node.enter(world.subscription(&[world.member, world.owner], None))
        .await;
    let asker = |user| Asker {
        user,
        bot: false,
        ..world.asker(&node)
    };
    let asked = [
        (world.owner, world.open, 2),
        (world.owner, hidden, 1),
        (world.member, hidden, 0),
        (world.member, voice, 2),
        (world.owner, hidden, 1),
        (world.owner, voice, 2),
    ];
    for (number, (user, channel, _)) in (1_000_000..).zip(asked) {
        let question = Question::MemberCount { channel };
        asker(user).send(number, question).await;
    }
    for (number, (_, channel, count)) in (1_000_000..).zip(asked) {
        let ToCore::Tell {
            answers: Some(answers),
            dispatches,
            ..
        } = node.next().await
        else {
            panic!("no answer");
        };
        assert_eq!(answers.number, number);
        let body: Value = serde_json::from_slice(&dispatches[0].1).unwrap();
        assert_eq!(body["channel_id"], channel.to_string());
        assert_eq!(body["member_count"], count, "{number}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn who_is_in_voice_is_told_to_who_sees_where(db: PgPool) {
    let world = World::new(db).await;
    let hidden = world.make_voice(1, world.hidden(), json!({})).await;
    let voice = world.make_voice(2, json!([]), json!({})).await;
    for (user, channel) in [(world.owner, hidden), (world.member, voice)] {
        sqlx::query(
            "insert into voice_state (guild_id, user_id, channel_id, session_id, alive_until)
             values ($1, $2, $3, 'one', now() + interval '1 hour')",
        )
        .bind(world.guild.to_db())
        .bind(user.to_db())
        .bind(channel.to_db())
        .execute(&world.db)
        .await
        .unwrap();
    }
    let node = Node::start(&world, "a");
    node.enter(world.subscription(&[world.member, world.owner], None))
        .await;
    for (user, seen) in [
        (world.member, vec![world.member]),
        (world.owner, vec![world.owner, world.member]),
    ] {
        let asker = Asker {
            user,
            bot: false,
            ..world.asker(&node)
        };
        let (_, kind, body) = asker.ask(Question::VoiceStates).await;
        assert_eq!(kind, EventKind::PassiveUpdateV1);
        assert_eq!(body["guild_id"], world.guild.to_string());
        assert_eq!(body["channels"], json!([]));
        assert_eq!(ids(&body), seen);
        let states = body["voice_states"].as_array().unwrap();
        let users: Vec<_> = states.iter().map(|state| &state["user_id"]).collect();
        assert_eq!(json!(users), json!(seen));
        assert!(states[0].get("member").is_none() && states[0].get("guild_id").is_none());
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn active_threads_are_told_to_who_sees_them(db: PgPool) {
    let world = World::new(db).await;
    let hidden = world.make_voice(1, world.hidden(), json!({})).await;
    let node = Node::start(&world, "a");
    node.enter(world.subscription(&[world.member, world.owner], None))
        .await;
    let named = |behind: u64| Id::<Channel>::new(world.open.get() + behind).unwrap();
    let (public, joined, private, below) = (named(10), named(11), named(12), named(13));
    let threads = [
        (public, world.open, 11),
        (joined, world.open, 12),
        (private, world.open, 12),
        (below, hidden, 11),
    ];
    let mut events = Vec::new();
    for (thread, parent, kind) in threads {
        let body = json!({
            "id": thread, "type": kind, "guild_id": world.guild, "parent_id": parent,
            "owner_id": world.owner, "name": "aside", "last_message_id": null, "flags": 0,
            "rate_limit_per_user": 0, "message_count": 0, "member_count": 1,
            "total_message_sent": 0,
            "thread_metadata": {
                "archived": false, "auto_archive_duration": 60, "locked": false,
                "archive_timestamp": "2026-01-01T00:00:00.000000+00:00",
            },
        });
        events.push((EventKind::ThreadCreate, body));
    }
    let joins = json!({
        "id": joined, "guild_id": world.guild, "member_count": 1,
        "added_members": [{
            "id": joined, "user_id": world.member, "flags": 0,
            "join_timestamp": "2026-01-01T00:00:00.000000+00:00",
        }],
    });
    events.push((EventKind::ThreadMembersUpdate, joins));
    for (kind, body) in events {
        let vis = Visibility::realm(Intents::GUILDS);
        let event = world.store(kind, vis, &body).await;
        world.publish(&event).await;
        node.event().await;
    }
    for (user, seen, joined) in [
        (world.member, vec![public, joined], vec![joined]),
        (world.owner, vec![public, joined, private, below], vec![]),
    ] {
        let asker = Asker {
            user,
            bot: false,
            ..world.asker(&node)
        };
        let (_, kind, body) = asker.ask(Question::Threads).await;
        assert_eq!(kind, EventKind::ThreadListSync);
        assert_eq!(body["guild_id"], world.guild.to_string());
        assert!(body.get("channel_ids").is_none(), "of all channels");
        let ids = |key: &str| -> Value {
            let list = body[key].as_array().unwrap();
            list.iter().map(|one| one["id"].clone()).collect()
        };
        assert_eq!(ids("threads"), json!(seen));
        assert_eq!(ids("members"), json!(joined));
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn who_joined_last_comes_first(db: PgPool) {
    let world = World::new(db).await;
    world.crowd(300).await;
    let newest = world.guild.to_db() + 100 + 42;
    sqlx::query("update member set joined_at = now() + interval '1 hour' where user_id = $1")
        .bind(newest)
        .execute(&world.db)
        .await
        .unwrap();
    let node = Node::start(&world, "a");
    node.enter(world.subscription(&[world.member], None)).await;
    let query = String::new();
    let (_, body) = world.asker(&node).members(Wanted::Recent { query }).await;
    let found = ids(&body);
    assert_eq!((found.len(), found[0].to_db()), (100, newest));
}
