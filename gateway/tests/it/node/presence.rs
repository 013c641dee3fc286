//! Presence over nodes: guilds, friends, counts, and owners that change.

use guildhall_shared::{
    model::{Platform, Presence, SessionState, Status},
    online,
};

use super::{way::Way, *};

/// A way to a world's Redis, and its URL over this way.
async fn way_to_redis(world: &World) -> (Way, String) {
    let (scheme, rest) = world.redis_url.split_once("://").unwrap();
    let (server, database) = rest.split_once('/').unwrap();
    let (login, server) = match server.rsplit_once('@') {
        Some((login, server)) => (format!("{login}@"), server),
        None => (String::new(), server),
    };
    let mut server = server.to_owned();
    if !server.contains(':') {
        server.push_str(":6379");
    }
    let mut all = tokio::net::lookup_host(server).await.unwrap();
    let way = Way::to(all.next().unwrap()).await;
    let url = format!("{scheme}://{login}{}/{database}", way.addr());
    (way, url)
}

fn shows(status: Status) -> Presence {
    Presence::of_session(Platform::Web, status, None)
}

/// Of whom a PRESENCE_UPDATE tells, and which status.
fn told(event: &Envelope) -> Option<(String, String)> {
    if event.kind != EventKind::PresenceUpdate {
        return None;
    }
    let d: Value = serde_json::from_slice(&event.body).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    Some((text(&d["user"]["id"]), text(&d["status"])))
}

impl World {
    /// A subscription of one user's session that shows something, and may want to know of others.
    fn present(&self, user: Id<User>, status: Status, presences: bool) -> Subscription {
        let request = SnapshotRequest {
            presences,
            ..SNAPSHOT
        };
        let subscriber = Subscriber {
            presence: shows(status),
            ..Subscriber::new(user, vec![request])
        };
        Subscription {
            realm: self.realm(),
            from: None,
            users: vec![subscriber],
        }
    }

    /// A person's own realm, with one session.
    fn home(&self, user: Id<User>, status: Status) -> Subscription {
        let session = SessionState {
            id: [7; 16],
            status,
            platform: Platform::Web,
            activities: None,
        };
        Subscription {
            realm: user.cast(),
            from: Some(Position { era: 1, seq: 0 }),
            users: vec![Subscriber {
                presence: shows(status),
                sessions: vec![session],
                ..Subscriber::new(user, Vec::new())
            }],
        }
    }

    /// Two people, each a friend of the other.
    async fn befriend(&self) {
        self.without_bots().await;
        for (user, other) in [(self.owner, self.member), (self.member, self.owner)] {
            sqlx::query("insert into relationship (user_id, other_id, kind) values ($1, $2, 1)")
                .bind(user.to_db())
                .bind(other.to_db())
                .execute(&self.db)
                .await
                .unwrap();
        }
    }

    /// A person's key, if it is there.
    async fn note(&self, user: Id<User>) -> Option<Value> {
        let mut redis = self.redis.clone();
        let note: Option<Vec<u8>> = redis::cmd("GET")
            .arg(keys::person(user))
            .query_async(&mut redis)
            .await
            .unwrap();
        Some(serde_json::from_slice(&note?).unwrap())
    }

    /// Which owner wrote it.
    async fn writer(&self, user: Id<User>) -> Option<u64> {
        let person = self.note(user).await?;
        Some(person["writer"].as_u64().expect("a writer"))
    }

    /// Waits until a person's key is another one than this, or gone.
    async fn until_told(&self, user: Id<User>, before: Option<&Value>) {
        until("a change is told", async || {
            (self.note(user).await.as_ref() != before).then_some(())
        })
        .await;
    }

    /// Waits until another owner has written a person's key.
    async fn until_another_writes(&self, user: Id<User>, before: Option<u64>) {
        until("another owner writes", async || {
            (self.writer(user).await != before).then_some(())
        })
        .await;
    }

    async fn online(&self) -> Vec<u8> {
        let key = keys::online(ShardId::of(self.guild, SHARDS), self.guild);
        let mut redis = self.redis.clone();
        let entry: Option<Vec<u8>> = redis::cmd("GET")
            .arg(key)
            .query_async(&mut redis)
            .await
            .unwrap();
        entry.unwrap_or_default()
    }
}

impl Node {
    /// Waits for the sessions of a person who is here: from then on what friends do is heard.
    async fn hears_of_itself(&self) -> Value {
        let sessions = self.event().await;
        assert_eq!(sessions.kind, EventKind::SessionsReplace);
        serde_json::from_slice(&sessions.body).unwrap()
    }

    /// The next PRESENCE_UPDATE: whose, and which status. Other ephemeral events are passed over.
    async fn presence(&self) -> (String, String) {
        loop {
            if let Some(told) = told(&*self.event().await) {
                return told;
            }
        }
    }

    /// Waits for a PRESENCE_UPDATE, whatever else comes.
    async fn until_presence(&self, user: &str, status: &str) {
        loop {
            if let ToCore::Event(event) = self.next().await
                && told(&event).is_some_and(|told| told == (user.to_owned(), status.to_owned()))
            {
                return;
            }
        }
    }

    /// The PRESENCE_UPDATEs of some time; whatever else comes is passed over.
    async fn presences_within(&self, time: Duration) -> Vec<(String, String)> {
        let (until, mut all) = (Instant::now() + time, Vec::new());
        let left = || until.saturating_duration_since(Instant::now());
        while let Some(message) = self.next_within(left()).await {
            if let ToCore::Event(event) = message {
                all.extend(told(&event));
            }
        }
        all
    }

    /// The last session of a person is gone.
    async fn leave_home(&self, user: Id<User>) {
        let request = ToNode::Unsubscribe {
            core: 0,
            realm: user.cast(),
            users: vec![user],
        };
        self.requests.send(request).await.unwrap();
    }

    async fn show(&self, realm: Id<Realm>, user: Id<User>, status: Status) {
        let request = ToNode::Presence {
            core: 0,
            user,
            realms: vec![(realm, shows(status))],
            sessions: Vec::new(),
        };
        self.requests.send(request).await.unwrap();
    }
}

/// Two nodes, the first of which owns everything.
pub(super) async fn two_nodes(world: &World) -> (Node, Node) {
    let (a, b) = (Node::start(world, "a"), Node::start(world, "b"));
    for node in [&a, &b] {
        node.until("event feed", |node| node.status.is_ready())
            .await;
    }
    world.publish_map(1, &[&a, &b], 0, Some(1)).await;
    (a, b)
}

#[sqlx::test(migrations = "../migrations")]
async fn presences_reach_who_wants_them_on_another_node(db: PgPool) {
    let world = World::new(db).await;
    let (a, mut b) = two_nodes(&world).await;
    let subscribed = a
        .enter(world.present(world.member, Status::Idle, true))
        .await;
    let guild: Value = serde_json::from_slice(&subscribed.snapshots[0].1).unwrap();
    assert_eq!(
        guild["presences"][0]["user"]["id"],
        world.member.to_string()
    );
    assert_eq!(guild["presences"][0]["status"], "idle");
    assert_eq!(guild["presences"].as_array().unwrap().len(), 1);
    let owner = world.owner.to_string();
    b.enter(world.present(world.owner, Status::Online, false))
        .await;
    // The member's own, which its core keeps from itself, may come between.
    let of_owner = async || loop {
        let (user, status) = a.presence().await;
        if user == owner {
            return status;
        }
    };
    assert_eq!(of_owner().await, "online");
    b.show(world.realm(), world.owner, Status::Dnd).await;
    assert_eq!(of_owner().await, "dnd");
    b.show(world.realm(), world.owner, Status::Invisible).await;
    assert_eq!(of_owner().await, "offline");
    b.show(world.realm(), world.owner, Status::Online).await;
    assert_eq!(of_owner().await, "online");
    // Its node goes, and its sessions with it.
    b.stop();
    assert_eq!(of_owner().await, "offline");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_new_owner_learns_who_is_online_and_tells_who_vanished(db: PgPool) {
    let world = World::new(db).await;
    let (mut a, b) = two_nodes(&world).await;
    a.enter(world.present(world.owner, Status::Online, false))
        .await;
    b.enter(world.present(world.member, Status::Idle, true))
        .await;
    until("two are online", async || {
        (online::count(&world.online().await) == Some(2)).then_some(())
    })
    .await;
    // The owner goes together with one of the two.
    a.stop();
    let told = loop {
        match b.next().await {
            ToCore::Event(event) if event.kind == EventKind::PresenceUpdate => {
                let d: Value = serde_json::from_slice(&event.body).unwrap();
                // That it came online may be told first.
                if d["user"]["id"] == world.owner.to_string() && d["status"] != "online" {
                    break d;
                }
            }
            ToCore::Event(_) | ToCore::Subscribed(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    };
    assert_eq!(told["status"], "offline");
    let known = online::users(&world.online().await);
    assert!(
        known.iter().all(|(user, _)| *user == world.member),
        "{known:?}"
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn friends_hear_of_each_other_without_a_guild(db: PgPool) {
    let world = World::new(db).await;
    world.befriend().await;
    let (a, b) = two_nodes(&world).await;
    a.enter(world.home(world.owner, Status::Online)).await;
    let sessions = a.hears_of_itself().await;
    assert_eq!(sessions[0]["session_id"], "07".repeat(16));
    b.enter(world.home(world.member, Status::Dnd)).await;
    assert_eq!(a.presence().await, (world.member.to_string(), "dnd".into()));
    for user in [world.owner, world.member] {
        assert!(world.writer(user).await.is_some());
    }
    b.leave_home(world.member).await;
    assert_eq!(
        a.presence().await,
        (world.member.to_string(), "offline".into())
    );
    assert_eq!(world.writer(world.member).await, None);
}

/// With the first map the owner at `a` hears that their friend at `b` does not want to be disturbed;
/// who that is.
async fn at_home(world: &World, a: &Node, b: &Node) -> String {
    for node in [a, b] {
        node.until("the map", |node| node.metric("node_map_version") == 1.0)
            .await;
    }
    let member = world.member.to_string();
    a.enter(world.home(world.owner, Status::Online)).await;
    a.hears_of_itself().await;
    b.enter(world.home(world.member, Status::Dnd)).await;
    assert_eq!(a.presence().await, (member.clone(), "dnd".into()));
    member
}

#[sqlx::test(migrations = "../migrations")]
async fn friends_hear_nothing_of_a_move_and_of_a_leave_after_it(db: PgPool) {
    let world = World::new(db).await;
    world.befriend().await;
    let (a, b) = two_nodes(&world).await;
    let member = at_home(&world, &a, &b).await;
    let writer = world.writer(world.member).await;
    assert!(writer.is_some());
    world.publish_map(2, &[&a, &b], 1, Some(0)).await;
    let another = world.until_another_writes(world.member, writer);
    let moved = world.until_another_writes(world.owner, writer);
    tokio::join!(another, moved);
    let told = a.presences_within(Duration::from_secs(2)).await;
    assert!(told.is_empty(), "{told:?}");
    b.subscribe(world.home(world.member, Status::Idle)).await;
    assert_eq!(a.presence().await, (member.clone(), "idle".into()));
    for user in [world.owner, world.member] {
        let now = world.writer(user).await;
        assert!(now.is_some() && now != writer, "{now:?}");
    }
    b.leave_home(world.member).await;
    assert_eq!(a.presence().await, (member, "offline".into()));
    assert_eq!(world.writer(world.member).await, None);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_leave_right_after_a_move_is_told(db: PgPool) {
    let world = World::new(db).await;
    world.befriend().await;
    let (a, b) = two_nodes(&world).await;
    let member = at_home(&world, &a, &b).await;
    world.publish_map(2, &[&a, &b], 1, Some(0)).await;
    for node in [&a, &b] {
        while !matches!(node.next().await, ToCore::Subscribed(_)) {}
    }
    // The new owner has hardly written anything yet.
    b.leave_home(world.member).await;
    assert_eq!(a.presence().await, (member, "offline".into()));
    assert_eq!(world.writer(world.member).await, None);
}

#[sqlx::test(migrations = "../migrations")]
async fn whoever_is_with_another_owner_is_not_told_to_be_gone(db: PgPool) {
    let world = World::new(db).await;
    world.befriend().await;
    // Without a map each serves itself.
    let [a, b, c] = ["a", "b", "c"].map(|id| Node::start(&world, id));
    for node in [&a, &b, &c] {
        node.until("event feed", |node| node.status.is_ready())
            .await;
    }
    let member = world.member.to_string();
    a.enter(world.home(world.owner, Status::Online)).await;
    a.hears_of_itself().await;
    b.enter(world.home(world.member, Status::Dnd)).await;
    assert_eq!(a.presence().await, (member.clone(), "dnd".into()));
    let writer = world.writer(world.member).await;
    c.enter(world.home(world.member, Status::Dnd)).await;
    world.until_another_writes(world.member, writer).await;
    b.leave_home(world.member).await;
    let told = a.presences_within(Duration::from_secs(1)).await;
    assert!(told.is_empty(), "{told:?}");
    assert!(world.writer(world.member).await.is_some());
    c.leave_home(world.member).await;
    assert_eq!(a.presence().await, (member, "offline".into()));
    assert_eq!(world.writer(world.member).await, None);
}

/// The owner at `a` sees that their friend at `b` does not want to be disturbed; who that is.
async fn meet(world: &World, a: &Node, b: &Node) -> String {
    for node in [a, b] {
        node.until("redis", |node| node.metric("node_redis_up") == 1.0)
            .await;
    }
    let member = world.member.to_string();
    a.enter(world.home(world.owner, Status::Online)).await;
    a.hears_of_itself().await;
    b.enter(world.home(world.member, Status::Dnd)).await;
    a.until_presence(&member, "dnd").await;
    member
}

#[sqlx::test(migrations = "../migrations")]
async fn what_friends_showed_while_redis_was_away_is_told_after_it(db: PgPool) {
    let world = World::new(db).await;
    world.befriend().await;
    let (mut way, url) = way_to_redis(&world).await;
    // Without a map each serves itself.
    let a = Node::start_with(&world, "a", &url, "key");
    let b = Node::start(&world, "b");
    let member = meet(&world, &a, &b).await;

    let before = world.note(world.member).await;
    way.cut().await;
    b.subscribe(world.home(world.member, Status::Idle)).await;
    world.until_told(world.member, before.as_ref()).await;
    way.open();
    a.until_presence(&member, "idle").await;

    let before = world.note(world.member).await;
    way.cut().await;
    b.leave_home(world.member).await;
    world.until_told(world.member, before.as_ref()).await;
    way.open();
    a.until_presence(&member, "offline").await;
    way.cut().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn what_somebody_shows_while_their_node_has_no_redis_is_told_after_it(db: PgPool) {
    let world = World::new(db).await;
    world.befriend().await;
    let (mut way, url) = way_to_redis(&world).await;
    let a = Node::start(&world, "a");
    let b = Node::start_with(&world, "b", &url, "key");
    let member = meet(&world, &a, &b).await;
    let failed = |node: &Node| node.metric("node_friends_untold_total");
    let before = failed(&b);
    way.cut().await;
    b.subscribe(world.home(world.member, Status::Idle)).await;
    b.until("tried in vain", |node| failed(node) > before).await;
    way.open();
    a.until_presence(&member, "idle").await;
    way.cut().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn what_somebody_shows_is_told_again_where_redis_broke_as_it_was_told(db: PgPool) {
    let world = World::new(db).await;
    world.befriend().await;
    let (mut way, url) = way_to_redis(&world).await;
    let a = Node::start(&world, "a");
    let b = Node::start_with(&world, "b", &url, "key");
    let member = meet(&world, &a, &b).await;
    let failed = |node: &Node| node.metric("node_friends_untold_total");
    let before = failed(&b);
    way.break_at("SPUBLISH");
    b.subscribe(world.home(world.member, Status::Idle)).await;
    b.until("told in vain", |node| failed(node) > before).await;
    a.until_presence(&member, "idle").await;
    way.cut().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn whoever_has_blocked_a_partner_is_not_online_in_their_ready(db: PgPool) {
    let world = World::new(db).await;
    world.without_bots().await;
    let dm = world.open.to_db() + 1;
    sqlx::query("insert into channel (channel_id, kind) values ($1, 1)")
        .bind(dm)
        .execute(&world.db)
        .await
        .unwrap();
    for user in [world.owner, world.member] {
        sqlx::query("insert into private_recipient (channel_id, user_id) values ($1, $2)")
            .bind(dm)
            .bind(user.to_db())
            .execute(&world.db)
            .await
            .unwrap();
    }
    let person = json!({ "presence": shows(Status::Online), "sessions": [] });
    let mut redis = world.redis.clone();
    redis::cmd("SET")
        .arg(keys::person(world.member))
        .arg(person.to_string())
        .query_async::<()>(&mut redis)
        .await
        .unwrap();
    let (token, node) = (
        world.make_token(world.owner, 7).await,
        Node::start(&world, "a"),
    );
    let online = async || {
        node.identify(&token).await;
        node.identified().await.unwrap().presences
    };
    assert_eq!(online().await, [(world.member, shows(Status::Online))]);
    sqlx::query("insert into relationship (user_id, other_id, kind) values ($1, $2, 2)")
        .bind(world.member.to_db())
        .bind(world.owner.to_db())
        .execute(&world.db)
        .await
        .unwrap();
    assert_eq!(online().await, []);
}
