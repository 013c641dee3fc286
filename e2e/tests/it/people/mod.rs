//! What user clients get: READY in the shapes they ask for, read states that stay right while
//! messages stream in (I6), and what one session changes told to the others.

mod shapes;

use e2e::{
    cluster::{Cluster, Options, Shared},
    session::Session,
    world::{self, Account, permission},
};
use serde_json::{Value, json};

use shapes::{Ready, Supplemental, WEB};

static CLUSTER: Shared = Shared::new(Options::DEFAULT);

/// A user client at one of the gateways.
async fn client(cluster: &Cluster, account: &Account, gateway: usize) -> Session {
    let mut login = account.login(vec![cluster.gateways[gateway].url()], 0);
    login.capabilities = Some(WEB);
    Session::start(login).await
}

fn first(session: &Session, t: &str) -> Value {
    let log = session.log();
    let first = log.named(t).next().map(|one| one.d().clone());
    first.unwrap_or_default()
}

fn ready(session: &Session) -> Ready {
    serde_json::from_value(first(session, "READY")).unwrap()
}

/// `(last_message_id, mention_count)` of a channel.
fn read_state(ready: &Ready, channel: &str) -> (Option<String>, usize) {
    let mut entries = ready.read_state.entries.iter();
    let entry = entries.find(|entry| entry.id == channel);
    entry.map_or((None, 0), |entry| {
        (entry.last_message_id.clone(), entry.mention_count)
    })
}

async fn befriend(one: &Account, other: &Account) {
    for (from, to) in [(one, other), (other, one)] {
        let path = format!("/users/@me/relationships/{}", to.id);
        from.rest.put(&path, &json!({})).await.ok();
    }
}

async fn dm(one: &Account, other: &Account) -> String {
    let form = json!({"recipient_id": other.id});
    world::text(&one.rest.post("/users/@me/channels", &form).await.ok()["id"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_client_reads_its_ready() {
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let guest = world::human(&cluster, "guest").await;
    let guild = owner.make_guild("house").await;
    owner.invite(&guild, &guest).await;
    befriend(&owner, &guest).await;
    let hidden = json!([permission::hides(&guild.id, 0)]);
    let secret = owner.make_channel(&guild.id, "secret", hidden).await;
    let call = format!("<@{}> @everyone", guest.id);
    let seen = owner.say(&guild.channel, "read").await;
    let ack = format!("/channels/{}/messages/{seen}/ack", guild.channel);
    guest.rest.post(&ack, &json!({})).await.ok();
    for _ in 0..2 {
        owner.say(&guild.channel, &call).await;
        owner.say(&secret, &call).await;
    }
    let private = dm(&owner, &guest).await;
    let last = owner.say(&private, "psst").await;

    let session = client(&cluster, &guest, 0).await;
    session.dispatch("READY_SUPPLEMENTAL", |_| true).await;
    let ready = ready(&session);
    assert_eq!(ready.user.id, guest.id);
    assert_eq!(ready.guilds.len(), 1);
    let house = &ready.guilds[0];
    assert_eq!(
        (house.id.as_str(), house.data_mode.as_str()),
        (guild.id.as_str(), "full")
    );
    assert_eq!(house.properties["name"], "house");
    assert!(house.lazy && house.roles.len() == 1);
    assert!(
        house
            .channels
            .iter()
            .all(|channel| channel["id"] != secret.as_str())
    );
    assert_eq!(ready.merged_members.len(), 1);
    assert_eq!(ready.merged_members[0][0].user_id, guest.id);
    assert_eq!(ready.relationships.len(), 1);
    let friend = &ready.relationships[0];
    assert_eq!(
        (&friend.id, &friend.user_id, friend.kind),
        (&owner.id, &owner.id, 1)
    );
    let mut users: Vec<_> = ready.users.iter().map(|user| user.id.clone()).collect();
    users.sort();
    let mut both = vec![owner.id.clone(), guest.id.clone()];
    both.sort();
    assert_eq!(users, both);
    assert_eq!(ready.private_channels.len(), 1);
    assert_eq!(ready.private_channels[0].id, private);
    assert_eq!(ready.private_channels[0].recipient_ids, [owner.id.as_str()]);
    assert_eq!(ready.private_channels[0].last_message_id, Some(last));
    assert!(!ready.read_state.partial && ready.read_state.version > 0);
    assert_eq!(read_state(&ready, &guild.channel), (Some(seen), 2));
    assert_eq!(read_state(&ready, &private), (None, 1));
    assert_eq!(read_state(&ready, &secret), (None, 0));
    assert!(
        ready
            .read_state
            .entries
            .iter()
            .all(|entry| entry.id != secret)
    );
    let sessions = guest.rest.get("/auth/sessions").await.ok();
    let mut sessions = sessions["user_sessions"].as_array().unwrap().iter();
    assert!(sessions.any(|one| one["id_hash"] == ready.auth_session_id_hash.as_str()));
    let supplement: Supplemental =
        serde_json::from_value(first(&session, "READY_SUPPLEMENTAL")).unwrap();
    assert_eq!(supplement.guilds[0].id, guild.id);
    assert_eq!(supplement.merged_members.len(), 1);
    assert_eq!(supplement.merged_presences.guilds.len(), 1);
    session.assert_clean();

    // A guild that comes later has the same shape.
    let later = owner.make_guild("later").await;
    owner.invite(&later, &guest).await;
    let created = session
        .dispatch("GUILD_CREATE", |d| d["id"] == later.id.as_str())
        .await;
    assert_eq!(created["properties"]["name"], "later");
    assert!(created["members"].is_array());
}

/// Mentions stream in while clients identify: what READY counts and what follows are all of
/// them, none twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_and_what_follows_it_count_every_call_once() {
    const CALLS: usize = 120;
    const CLIENTS: usize = 12;
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let guest = world::human(&cluster, "guest").await;
    let guild = owner.make_guild("house").await;
    owner.invite(&guild, &guest).await;
    let writing = {
        let (owner, channel) = (owner.clone(), guild.channel.clone());
        let call = format!("<@{}>", guest.id);
        tokio::spawn(async move {
            for n in 0..CALLS {
                owner.say(&channel, &format!("{call} {n}")).await;
            }
        })
    };
    let mut sessions = Vec::new();
    for n in 0..CLIENTS {
        sessions.push(client(&cluster, &guest, n % 2).await);
    }
    writing.await.unwrap();
    owner.say(&guild.channel, "the end").await;
    for session in &sessions {
        session.message("the end").await;
        let (_, counted) = read_state(&ready(session), &guild.channel);
        let told = session.messages(&guild.channel).len() - 1;
        assert_eq!(counted + told, CALLS, "{counted} in READY, {told} after it");
        session.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_session_does_the_others_are_told() {
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let guest = world::human(&cluster, "guest").await;
    let guild = owner.make_guild("house").await;
    owner.invite(&guild, &guest).await;
    let sessions = [
        client(&cluster, &guest, 0).await,
        client(&cluster, &guest, 1).await,
    ];
    let stranger = client(&cluster, &owner, 0).await;
    let call = owner.say(&guild.channel, &format!("<@{}>", guest.id)).await;
    for session in &sessions {
        session
            .dispatch("MESSAGE_CREATE", |d| d["id"] == call.as_str())
            .await;
    }
    let channel = &guild.channel;
    let rest = &guest.rest;
    let ack = format!("/channels/{channel}/messages/{call}/ack");
    rest.post(&ack, &json!({})).await.ok();
    let pins = format!("/channels/{channel}/pins/ack");
    rest.post_empty(&pins).await.ok();
    let note = format!("/users/@me/notes/{}", owner.id);
    rest.put(&note, &json!({"note": "kind"})).await.ok();
    let settings = json!({"theme": "light"});
    rest.patch("/users/@me/settings", &settings).await.ok();
    let path = format!("/users/@me/guilds/{}/settings", guild.id);
    rest.patch(&path, &json!({"muted": true})).await.ok();
    rest.delete(&format!("/users/@me/mentions/{call}"))
        .await
        .ok();
    befriend(&guest, &owner).await;
    for session in &sessions {
        let acked = session
            .dispatch("MESSAGE_ACK", |d| d["message_id"] == call.as_str())
            .await;
        assert_eq!(acked["mention_count"], 0);
        session
            .dispatch("CHANNEL_PINS_ACK", |d| d["channel_id"] == channel.as_str())
            .await;
        session
            .dispatch("USER_NOTE_UPDATE", |d| d["note"] == "kind")
            .await;
        let changed = session.dispatch("USER_SETTINGS_UPDATE", |_| true).await;
        assert_eq!(changed, settings);
        session
            .dispatch("USER_GUILD_SETTINGS_UPDATE", |d| d["muted"] == true)
            .await;
        session
            .dispatch("RECENT_MENTION_DELETE", |d| {
                d["message_id"] == call.as_str()
            })
            .await;
        session
            .dispatch("RELATIONSHIP_ADD", |d| d["type"] == 1)
            .await;
        session.assert_clean();
    }
    stranger
        .dispatch("RELATIONSHIP_ADD", |d| d["type"] == 1)
        .await;
    for t in ["MESSAGE_ACK", "USER_NOTE_UPDATE", "USER_SETTINGS_UPDATE"] {
        assert_eq!(stranger.log().named(t).count(), 0, "{t} of somebody else");
    }
    // A new session finds it all in its READY.
    let late = client(&cluster, &guest, 0).await;
    let ready = ready(&late);
    assert_eq!(read_state(&ready, channel), (Some(call), 0));
    assert_eq!(ready.user_guild_settings.entries[0]["muted"], true);
    assert_eq!(ready.user_guild_settings.version, 1);
    assert!(ready.sessions.iter().all(Value::is_object));
}
