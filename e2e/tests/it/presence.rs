//! Who is online, over two gateways: bots with and without the intent, friends, counts, and
//! what a gateway that dies takes with it. Every payload is read by twilight.

use e2e::{
    cluster::{Cluster, Options, Shared, Use},
    session::Session,
    wait,
    world::{self, Account, Guild, INTENTS},
};
use serde_json::{Value, json};

static CLUSTER: Shared = Shared::new(Options::DEFAULT);

const GUILD_PRESENCES: u32 = 1 << 8;

async fn at(cluster: &Cluster, gateway: usize, account: &Account, intents: u32) -> Session {
    let urls = vec![cluster.gateways[gateway].url()];
    Session::start(account.login(urls, intents)).await
}

fn set(session: &Session, presence: Value) {
    session.send(&json!({"op": 3, "d": presence}));
}

/// A PRESENCE_UPDATE of this user with this status, in this guild or of a friend.
async fn told(session: &Session, user: &str, guild: Option<&str>, status: &str) -> Value {
    session
        .dispatch("PRESENCE_UPDATE", |d| {
            d["user"]["id"] == user && d["guild_id"].as_str() == guild && d["status"] == status
        })
        .await
}

/// Waits until REST counts so many members of a guild as online.
async fn counted(account: &Account, guild: &Guild, online: u64) {
    let path = format!("/guilds/{}?with_counts=true", guild.id);
    wait::until("the count of who is online", || async {
        let guild = account.rest.get(&path).await.ok();
        (guild["approximate_presence_count"] == online).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bots_with_the_intent_hear_what_members_show() {
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let guild = owner.make_guild_on(&cluster, 0, "presence").await;
    let (curious, other) = (
        owner.make_bot("curious").await,
        owner.make_bot("other").await,
    );
    for bot in [&curious, &other] {
        owner.add_bot(&guild, bot).await;
    }
    let human = at(&cluster, 1, &owner, 0).await;
    let curious_session = at(&cluster, 0, &curious, INTENTS | GUILD_PRESENCES).await;
    let created = curious_session.dispatch("GUILD_CREATE", |_| true).await;
    let shown = created["presences"].as_array().unwrap();
    assert!(
        shown
            .iter()
            .any(|one| one["user"]["id"] == owner.id.as_str()),
        "{shown:?}"
    );
    let other_session = at(&cluster, 1, &other, INTENTS).await;
    let there = told(&curious_session, &other.id, Some(&guild.id), "online").await;
    assert_eq!(there["client_status"], json!({"web": "online"}));
    let created = other_session.dispatch("GUILD_CREATE", |_| true).await;
    assert_eq!(created["presences"], json!([]));

    set(
        &human,
        json!({"status": "dnd", "since": 0, "afk": false, "activities": [
        {"name": "a game", "type": 0, "details": "level 3", "timestamps": {"start": 5}}]}),
    );
    let busy = told(&curious_session, &owner.id, Some(&guild.id), "dnd").await;
    assert_eq!(busy["activities"][0]["details"], "level 3");
    assert!(busy["activities"][0]["created_at"].is_u64());
    set(
        &other_session,
        json!({"status": "idle", "since": null, "afk": true,
        "game": {"name": "x", "type": 4, "state": "thinking", "details": "no"}}),
    );
    let idle = told(&curious_session, &other.id, Some(&guild.id), "idle").await;
    assert_eq!(idle["activities"][0]["name"], "Custom Status");
    assert_eq!(idle["activities"][0].get("details"), None);
    set(
        &human,
        json!({"status": "invisible", "activities": [], "since": 0, "afk": false}),
    );
    let hidden = told(&curious_session, &owner.id, Some(&guild.id), "offline").await;
    assert_eq!(hidden["activities"], json!([]));
    assert_eq!(hidden["client_status"], json!({}));
    counted(&owner, &guild, 2).await;
    let guilds = owner
        .rest
        .get("/users/@me/guilds?with_counts=true")
        .await
        .ok();
    let mine = guilds
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["id"] == guild.id.as_str());
    assert_eq!(mine.unwrap()["approximate_presence_count"], 2);

    // The human's own sessions say what they show, and nobody hears of themselves.
    let own = human
        .dispatch("SESSIONS_REPLACE", |d| d[0]["status"] == "invisible")
        .await;
    assert_eq!(own.as_array().unwrap().len(), 1);
    owner.say(&guild.channel, "the end").await;
    for session in [&human, &curious_session, &other_session] {
        session.message("the end").await;
    }
    assert_eq!(other_session.log().named("PRESENCE_UPDATE").count(), 0);
    let of_itself = |session: &Session, id: &str| {
        let log = session.log();
        log.named("PRESENCE_UPDATE")
            .filter(|one| one.d()["user"]["id"] == id)
            .count()
    };
    assert_eq!(of_itself(&curious_session, &curious.id), 0);
    assert_eq!(of_itself(&human, &owner.id), 0);
    for session in [human, curious_session, other_session] {
        session.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn friends_see_each_other_come_and_go() {
    let cluster = CLUSTER.cluster().await;
    let (ann, ben) = (
        world::human(&cluster, "ann").await,
        world::human(&cluster, "ben").await,
    );
    for (account, other) in [(&ann, &ben), (&ben, &ann)] {
        let path = format!("/users/@me/relationships/{}", other.id);
        account.rest.put(&path, &json!({})).await.ok();
    }
    let at_ann = at(&cluster, 0, &ann, 0).await;
    let at_ben = at(&cluster, 1, &ben, 0).await;
    told(&at_ann, &ben.id, None, "online").await;
    wait::until("READY shows who is there", || async {
        let again = at(&cluster, 1, &ben, 0).await;
        let ready = again.dispatch("READY", |_| true).await;
        let shown = ready["presences"].as_array().unwrap();
        let shown = shown.iter().any(|one| one["user"]["id"] == ann.id.as_str());
        (shown && ready["sessions"].as_array().unwrap().len() > 1).then_some(())
    })
    .await;
    set(
        &at_ann,
        json!({"status": "idle", "activities": [], "since": 0, "afk": true}),
    );
    told(&at_ben, &ann.id, None, "idle").await;
    set(
        &at_ann,
        json!({"status": "invisible", "activities": [], "since": 0, "afk": true}),
    );
    told(&at_ben, &ann.id, None, "offline").await;
    at_ann.assert_clean();
    at_ben.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_dies_with_a_gateway_is_offline_until_they_come_back() {
    let cluster = Use::own(Options::DEFAULT).await;
    let owner = world::human(&cluster, "owner").await;
    let bot = owner.make_bot("bot").await;
    for owning in 0..2 {
        let guild = owner.make_guild_on(&cluster, owning, "presence").await;
        owner.add_bot(&guild, &bot).await;
    }
    let watching = at(&cluster, 0, &bot, INTENTS | GUILD_PRESENCES).await;
    let human = at(&cluster, 1, &owner, 0).await;
    let guilds: Vec<String> = {
        let log = watching.log();
        let created = log.named("GUILD_CREATE");
        created.map(|guild| world::text(&guild.d()["id"])).collect()
    };
    for guild in &guilds {
        told(&watching, &owner.id, Some(guild), "online").await;
    }
    // What its owner dies with is told by the next one, from what it finds in Redis.
    for guild in &guilds {
        let guild = Guild {
            id: guild.clone(),
            channel: String::new(),
        };
        counted(&owner, &guild, 2).await;
    }
    cluster.gateways[1].server.kill();
    for guild in &guilds {
        told(&watching, &owner.id, Some(guild), "offline").await;
    }
    cluster.gateways[1].server.restart().await.unwrap();
    human
        .wait("RESUMED", |log| (log.resumed == 1).then_some(()))
        .await;
    let seen = watching.log().named("PRESENCE_UPDATE").count();
    set(
        &human,
        json!({"status": "dnd", "activities": [], "since": 0, "afk": false}),
    );
    for guild in &guilds {
        told(&watching, &owner.id, Some(guild), "dnd").await;
    }
    assert!(watching.log().named("PRESENCE_UPDATE").count() > seen);
    watching.assert_clean();
}

/// Rows of a list as a client of a person keeps them.
fn rows(session: &Session, guild: &str) -> Vec<String> {
    let log = session.log();
    let mut rows: Vec<Value> = Vec::new();
    for update in log.named("GUILD_MEMBER_LIST_UPDATE") {
        if update.d()["guild_id"] != guild {
            continue;
        }
        for op in update.d()["ops"].as_array().unwrap() {
            let index = op["index"].as_u64().unwrap_or_default() as usize;
            match op["op"].as_str().unwrap() {
                "SYNC" => rows = op["items"].as_array().unwrap().clone(),
                "INSERT" => rows.insert(index, op["item"].clone()),
                "UPDATE" => rows[index] = op["item"].clone(),
                "DELETE" => {
                    rows.remove(index);
                }
                other => panic!("{other}"),
            }
        }
    }
    let brief = rows.iter().map(|row| match row.get("group") {
        Some(group) => format!("{} {}", group["id"].as_str().unwrap(), group["count"]),
        None => {
            let member = &row["member"];
            let status = &member["presence"]["status"];
            format!(
                "{} {}",
                member["user"]["id"].as_str().unwrap(),
                status.as_str().unwrap()
            )
        }
    });
    brief.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_look_at_lists_that_follow_presences_roles_and_owners() {
    let cluster = Use::own(Options::DEFAULT).await;
    let owner = world::human(&cluster, "a").await;
    let guest = world::human(&cluster, "b").await;
    // The guild's first owner is the gateway that nobody is connected to.
    let guild = owner.make_guild_on(&cluster, 1, "list").await;
    owner.invite(&guild, &guest).await;
    let looking = at(&cluster, 0, &owner, 0).await;
    let look = json!({"op": 14, "d": {"guild_id": guild.id, "typing": true, "activities": true,
        "channels": {guild.channel.as_str(): [[0, 99]]}}});
    looking.send(&look);
    let shows = async |expected: &[String]| {
        let found = wait::until("the rows", || async {
            (rows(&looking, &guild.id) == expected).then_some(())
        });
        found.await;
    };
    let row = |account: &Account, status: &str| format!("{} {status}", account.id);
    let group = |name: &str, count: u32| format!("{name} {count}");
    shows(&[
        group("online", 1),
        row(&owner, "online"),
        group("offline", 1),
        row(&guest, "offline"),
    ])
    .await;
    let coming = at(&cluster, 0, &guest, 0).await;
    shows(&[
        group("online", 2),
        row(&owner, "online"),
        row(&guest, "online"),
    ])
    .await;
    set(
        &coming,
        json!({"status": "idle", "activities": [], "since": 0, "afk": true}),
    );
    shows(&[
        group("online", 2),
        row(&owner, "online"),
        row(&guest, "idle"),
    ])
    .await;
    let role = json!({"name": "staff", "hoist": true});
    let role = owner
        .rest
        .post(&format!("/guilds/{}/roles", guild.id), &role)
        .await
        .ok();
    let role = world::text(&role["id"]);
    let path = format!("/guilds/{}/members/{}/roles/{role}", guild.id, guest.id);
    owner.rest.put(&path, &json!({})).await.ok();
    let staffed = [
        group(&role, 1),
        row(&guest, "idle"),
        group("online", 1),
        row(&owner, "online"),
    ];
    shows(&staffed).await;
    // Another owner is asked to show the same, and goes on from there.
    cluster.gateways[1].server.kill();
    set(
        &coming,
        json!({"status": "dnd", "activities": [], "since": 0, "afk": false}),
    );
    shows(&[
        group(&role, 1),
        row(&guest, "dnd"),
        group("online", 1),
        row(&owner, "online"),
    ])
    .await;
    // Op 37 drops it: what happens is not told any more.
    looking.send(&json!({"op": 37, "d": {"subscriptions": {guild.id.as_str(): {}}}}));
    looking.send(&json!({"op": 14, "d": {"guild_id": guild.id, "members": [guest.id]}}));
    set(
        &coming,
        json!({"status": "online", "activities": [], "since": 0, "afk": false}),
    );
    told(&looking, &guest.id, Some(&guild.id), "online").await;
    assert_eq!(rows(&looking, &guild.id)[1], row(&guest, "dnd"));
    let path = format!("/guilds/{}/members/{}", guild.id, guest.id);
    owner.rest.delete(&path).await.ok();
    let is_gone = |d: &Value| d["user"]["id"] == guest.id.as_str();
    looking.dispatch("GUILD_MEMBER_REMOVE", is_gone).await;
    looking.assert_clean();
    coming.assert_clean();
}
