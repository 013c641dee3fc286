//! How often and how many times an account may identify, what ends its sessions, and members by
//! the thousand for those who ask for them.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use e2e::{
    client::{self, Client, End},
    cluster::{Cluster, Options, Shared},
    rest::Rest,
    session::Session,
    wait,
    wire::Frame,
    world::{self, Account, INTENTS, random_word, text},
};
use guildhall_shared::{Id, gateway::session_starts::PERSON_SESSIONS_MAX, id::marker::User, keys};
use serde_json::{Value, json};

use crate::crowd;

static CLUSTER: Shared = Shared::new(Options::DEFAULT);

static LIMITED: Shared = Shared::new(Options {
    rate_limits: "on",
    ..Options::DEFAULT
});

/// Between an IDENTIFY that is told op 9 and the next one, which the clients' own rate limit
/// counts, too.
const IDENTIFY_PAUSE: Duration = Duration::from_secs(1);

/// How long it took from the answer to the call that revoked the token.
async fn all_close(sessions: &[Session; 2], why: &str) -> Duration {
    let answered = Instant::now();
    for session in sessions {
        wait::until(&format!("close 4004 after {why}"), || async {
            (session.log().fatal == Some(4004)).then_some(())
        })
        .await;
    }
    answered.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_revokes_a_token_closes_its_sockets_on_every_gateway() {
    let cluster = CLUSTER.cluster().await;
    let human = async || {
        let account = world::human(&cluster, "human").await;
        let sessions = account.on_both(&cluster).await;
        (account, sessions)
    };
    let password = |account: &Account| format!("a long password of {}", account.name);

    let (changes, changed) = human().await;
    let form = json!({"password": password(&changes), "new_password": random_word().repeat(2)});
    let token = text(&changes.rest.patch("/users/@me", &form).await.ok()["token"]);
    let mut took = vec![all_close(&changed, "a new password").await];
    for session in &changed {
        // They have been told what the session is called that takes their place.
        let log = session.log();
        assert_eq!(log.named("AUTH_SESSION_CHANGE").count(), 1);
    }
    let again = Account { token, ..changes };
    again.on_both(&cluster).await;

    let (listed, elsewhere) = human().await;
    let form =
        json!({"login": format!("{}@example.org", listed.name), "password": password(&listed)});
    let nobody = cluster.rest(1);
    let token = text(&nobody.post("/auth/login", &form).await.ok()["token"]);
    let other = Account {
        rest: nobody.with_token(&token),
        token,
        ..listed.clone()
    };
    let stays = other.on_both(&cluster).await;
    let known = other.rest.get("/auth/sessions").await.ok();
    // The session that looks at the list was used last.
    let old = &known["user_sessions"][1]["id_hash"];
    let form = json!({"session_id_hashes": [old], "password": password(&listed)});
    other.rest.post("/auth/sessions/logout", &form).await.ok();
    took.push(all_close(&elsewhere, "a log-out from the list").await);
    let stay = world::random_word();
    let place = other.make_guild("house").await;
    for session in &stays {
        // What is said before a session has the guild is in its GUILD_CREATE (I6).
        session
            .dispatch("GUILD_CREATE", |d| d["id"] == place.id.as_str())
            .await;
    }
    other.say(&place.channel, &stay).await;
    for session in &stays {
        session.message(&stay).await;
    }

    let (gone, ended) = human().await;
    let form = json!({"password": password(&gone)});
    assert_eq!(gone.rest.post("/users/@me/delete", &form).await.status, 204);
    took.push(all_close(&ended, "the end of the account").await);

    let (owner, _) = human().await;
    let bot = owner.make_bot("bot").await;
    let sessions = bot.on_both(&cluster).await;
    let application = bot.application.as_deref().unwrap();
    let path = format!("/applications/{application}/delete");
    let form = json!({"password": password(&owner)});
    assert_eq!(owner.rest.post(&path, &form).await.status, 204);
    took.push(all_close(&sessions, "the end of the application").await);
    // One may be late on a machine that does much else; if it is slow, all are.
    took.sort_unstable();
    assert!(took[1] < Duration::from_secs(1), "{took:?}");
}

/// The quickest of a few: a busy machine may take longer, a gateway that looks only now and then
/// would never be so quick.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_closes_its_sockets_within_a_second() {
    const ATTEMPTS: usize = 3;
    const AIM: Duration = Duration::from_secs(1);
    let cluster = CLUSTER.cluster().await;
    let closed = async |sessions: &[Session; 2]| {
        let revoked = Instant::now();
        all_close(sessions, "a revocation").await;
        revoked.elapsed()
    };
    let (mut of_bots, mut of_people) = (Vec::new(), Vec::new());
    for _ in 0..ATTEMPTS {
        let human = world::human(&cluster, "human").await;
        let bot = human.make_bot("bot").await;
        let bots = bot.on_both(&cluster).await;
        let people = human.on_both(&cluster).await;
        let application = bot.application.as_deref().unwrap();
        let path = format!("/applications/{application}/bot/reset");
        human.rest.post(&path, &json!({})).await.ok();
        of_bots.push(closed(&bots).await);
        let out = human.rest.post("/auth/logout", &json!({})).await;
        assert_eq!(out.status, 204);
        of_people.push(closed(&people).await);
    }
    for took in [of_bots, of_people] {
        assert!(took.iter().any(|took| *took < AIM), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bot_that_is_kicked_stays_connected_and_loses_the_guild() {
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let bot = owner.make_bot("bot").await;
    let guild = owner.make_guild("house").await;
    owner.add_bot(&guild, &bot).await;
    let sessions = bot.on_both(&cluster).await;
    let path = format!("/guilds/{}/members/{}", guild.id, bot.id);
    assert_eq!(owner.rest.delete(&path).await.status, 204);
    for session in &sessions {
        let left = session.dispatch("GUILD_DELETE", |d| d["id"] == guild.id.as_str());
        assert!(left.await.get("unavailable").is_none());
        assert!(session.log().ends.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhooks_token_is_no_good_at_any_api_once_it_is_revoked() {
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let guild = owner.make_guild("house").await;
    let hooks = format!("/channels/{}/webhooks", guild.channel);
    let apis: Vec<Rest> = (0..2).map(|api| cluster.rest(api)).collect();
    for revoked_at in 0..2 {
        let hook = owner.rest.post(&hooks, &json!({"name": "hook"})).await.ok();
        let (id, token) = (text(&hook["id"]), text(&hook["token"]));
        let path = format!("/webhooks/{id}/{token}");
        for api in &apis {
            let said = api.post(&path, &json!({"content": "hello"})).await;
            assert_eq!(said.status, 204);
        }
        let gone = apis[revoked_at].delete(&path).await;
        assert_eq!(gone.status, 204);
        for api in &apis {
            let said = api.post(&path, &json!({"content": "hello"})).await;
            said.assert_error(404, 10015);
            api.get(&path).await.assert_error(404, 10015);
        }
    }
}

/// What IDENTIFY comes to.
pub(crate) async fn identify(
    url: &str,
    account: &Account,
    shard: Option<[u32; 2]>,
) -> Result<Client, End> {
    let mut client = Client::open(url).await.unwrap();
    let intents = account.application.is_some().then_some(INTENTS);
    client.expect_op(10).await;
    loop {
        client.send(&client::identify(&account.token, intents, shard));
        match answer_to_identify(&mut client).await {
            Some(frame) if frame.op == 0 => return Ok(client),
            Some(_) => tokio::time::sleep(IDENTIFY_PAUSE).await,
            None => return Err(client.ended().await),
        }
    }
}

/// READY or op 9; `None` if the socket ends first.
async fn answer_to_identify(client: &mut Client) -> Option<Frame> {
    loop {
        let frame = client.next().await?;
        if frame.op == 9 || frame.t.as_deref() == Some("READY") {
            return Some(frame);
        }
    }
}

/// Identifies on this connection until its turn has come.
async fn until_let_in(client: &mut Client, payload: &Value) {
    let end = Instant::now() + wait::NEVER;
    loop {
        client.send(payload);
        if answer_to_identify(client).await.unwrap().op == 0 {
            return;
        }
        assert!(Instant::now() < end, "its turn never came");
        tokio::time::sleep(IDENTIFY_PAUSE).await;
    }
}

/// What a bot is told of its `session_start_limit` by this API.
pub(crate) async fn session_starts(cluster: &Cluster, api: usize, bot: &Account) -> Value {
    let rest = cluster.rest(api).with_token(&format!("Bot {}", bot.token));
    rest.get("/gateway/bot").await.ok()["session_start_limit"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_has_at_most_50_sessions_over_all_gateways() {
    let cluster = CLUSTER.cluster().await;
    let human = world::human(&cluster, "human").await;
    let url = |number: usize| cluster.gateways[number % 2].url();
    let mut clients = Vec::new();
    for number in 0..PERSON_SESSIONS_MAX {
        clients.push(identify(&url(number), &human, None).await.unwrap());
    }
    for number in 0..2 {
        let refused = identify(&url(number), &human, None).await;
        assert_eq!(refused.unwrap_err(), End::Closed(4015));
    }
    // One that logs out makes room, at the other gateway as well.
    let mut leaves = clients.swap_remove(0);
    leaves.close(1000);
    leaves.ended().await;
    wait::until("room for another session", async || {
        identify(&url(1), &human, None).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_starts_of_a_bot_are_counted_and_end_for_the_day() {
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let bot = owner.make_bot("bot").await;
    let fresh = session_starts(&cluster, 0, &bot).await;
    assert_eq!(
        (&fresh["total"], &fresh["remaining"]),
        (&json!(1000), &json!(1000))
    );
    assert_eq!(fresh["reset_after"], 86_400_000);
    let url = |number: usize| cluster.gateways[number % 2].url();
    for number in 0..3 {
        // Each on a bucket of its own: nobody waits.
        let shard = Some([number, 3]);
        identify(&url(number as usize), &bot, shard).await.unwrap();
    }
    for api in 0..2 {
        let counted = session_starts(&cluster, api, &bot).await;
        assert_eq!(counted["remaining"], 997);
        let left = counted["reset_after"].as_u64().unwrap();
        assert!(0 < left && left < 86_400_000, "{left}");
    }
    let id: Id<User> = bot.id.parse().unwrap();
    let mut redis = cluster.redis().await.unwrap();
    let () = redis::cmd("SET")
        .arg(keys::session_starts(id))
        .arg(1000)
        .arg("KEEPTTL")
        .query_async(&mut redis)
        .await
        .unwrap();
    for number in 0..2_u32 {
        let refused = identify(&url(number as usize), &bot, Some([3 + number, 5])).await;
        assert_eq!(refused.unwrap_err(), End::Closed(4004));
    }
    let spent = session_starts(&cluster, 1, &bot).await;
    assert_eq!(spent["remaining"], 0);
}

/// A bucket is free again after five seconds, which a busy machine may spend between two clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_bucket_one_identifies_at_a_time_over_all_gateways() {
    const BUCKETS: u32 = 16;
    const SHARDS: u32 = 2 * BUCKETS;
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let bot = owner.make_bot("bot").await;
    let limit = session_starts(&cluster, 0, &bot).await;
    assert_eq!(limit["max_concurrency"], BUCKETS);
    let payload = |shard: u32| client::identify(&bot.token, Some(INTENTS), Some([shard, SHARDS]));
    let answer = async |gateway: usize, shard: u32| {
        let mut client = Client::open(&cluster.gateways[gateway].url())
            .await
            .unwrap();
        client.expect_op(10).await;
        client.send(&payload(shard));
        let told = answer_to_identify(&mut client).await.unwrap();
        (client, told)
    };
    let mut refused = None;
    for bucket in 0..5 {
        let (_client, told) = answer(0, bucket).await;
        assert_eq!(told.op, 0, "nobody was there before");
        let (client, told) = answer(1, bucket + BUCKETS).await;
        if told.op == 9 {
            assert_eq!(told.d, json!(false));
            refused = Some((client, bucket + BUCKETS));
            break;
        }
    }
    let (mut client, shard) = refused.expect("of five buckets one that is taken");
    let (_client, told) = answer(1, 6).await;
    assert_eq!(told.op, 0, "another bucket is free");
    // It comes to its turn on the same connection.
    until_let_in(&mut client, &payload(shard)).await;
}

/// The same of a person, who has one bucket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_identifies_once_at_a_time_over_all_gateways() {
    const ATTEMPTS: usize = 5;
    let cluster = LIMITED.cluster().await;
    let human = world::human(&cluster, "human").await;
    let payload = client::identify(&human.token, None, None);
    let mut refused = None;
    for _ in 0..ATTEMPTS {
        identify(&cluster.gateways[0].url(), &human, None)
            .await
            .unwrap();
        let mut client = Client::open(&cluster.gateways[1].url()).await.unwrap();
        client.expect_op(10).await;
        client.send(&payload);
        let told = answer_to_identify(&mut client).await.unwrap();
        if told.op == 9 {
            assert_eq!(told.d, json!(false));
            refused = Some(client);
            break;
        }
    }
    let mut client = refused.expect("of five attempts one that comes too soon");
    let other = world::human(&cluster, "other").await;
    let mut free = Client::open(&cluster.gateways[1].url()).await.unwrap();
    free.identify(&other.token, None).await;
    let told = answer_to_identify(&mut free).await.unwrap();
    assert_eq!(told.op, 0, "nobody else is kept waiting");
    // They come to their turn on the same connection.
    until_let_in(&mut client, &payload).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bot_of_too_many_guilds_is_told_to_shard() {
    const GUILDS: i64 = 2501;
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let bot = owner.make_bot("bot").await;
    let db = cluster.db().await.unwrap();
    // Other times than those of anybody who came in another way.
    let first = i64::from(rand::random::<u32>() >> 1);
    for (sql, account) in [
        (
            "insert into guild (guild_id, name, owner_id)
             select ($1 + n) << 22, 'one of many', $2 from generate_series(1, $3) n",
            &owner,
        ),
        (
            "insert into member (guild_id, user_id)
             select ($1 + n) << 22, $2 from generate_series(1, $3) n",
            &bot,
        ),
    ] {
        sqlx::query(sql)
            .bind(first)
            .bind(account.id.parse::<i64>().unwrap())
            .bind(GUILDS)
            .execute(&db)
            .await
            .unwrap();
    }
    for gateway in &cluster.gateways {
        let refused = identify(&gateway.url(), &bot, Some([0, 1])).await;
        assert_eq!(refused.unwrap_err(), End::Closed(4011));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shard_counts_live_side_by_side_and_each_session_hears_everything() {
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let bot = owner.make_bot("bot").await;
    let guild = owner.make_guild("house").await;
    owner.add_bot(&guild, &bot).await;
    let home = |count: u32| (guild.id.parse::<u64>().unwrap() >> 22) as u32 % count;
    let session = |gateway: usize, shard: [u32; 2]| {
        let mut login = bot.login(vec![cluster.gateways[gateway].url()], INTENTS);
        login.shard = Some(shard);
        Session::start(login)
    };
    let (first, second, third, fourth, elsewhere) = tokio::join!(
        session(0, [0, 1]),
        session(1, [0, 1]),
        session(0, [home(3), 3]),
        session(1, [home(3), 3]),
        session(0, [(home(3) + 1) % 3, 3]),
    );
    let words: Vec<String> = (0..5).map(|_| random_word()).collect();
    for word in &words {
        owner.say(&guild.channel, word).await;
    }
    for session in [&first, &second, &third, &fourth] {
        for word in &words {
            session.message(word).await;
        }
        assert_eq!(session.messages(&guild.channel).len(), words.len());
        session.assert_clean();
    }
    assert!(elsewhere.messages(&guild.channel).is_empty());
    let url = cluster.gateways[0].url();
    for shard in [[3, 3], [0, 0]] {
        let refused = identify(&url, &bot, Some(shard)).await;
        assert_eq!(refused.unwrap_err(), End::Closed(4010));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_by_the_thousand_come_in_order_here_and_over_a_link() {
    const COUNT: i64 = 20_000;
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let bot = owner.make_bot("bot").await;
    // Its owner is the one gateway, its sessions are on both.
    let guild = owner.make_guild_on(&cluster, 1, "crowded").await;
    owner.add_bot(&guild, &bot).await;
    crowd::add(&cluster, &guild.id, COUNT).await;
    let sessions = bot.on_both(&cluster).await;
    let all = |nonce: &str| {
        let d = json!({"guild_id": guild.id, "query": "", "limit": 0, "nonce": nonce});
        json!({"op": 8, "d": d})
    };
    for session in &sessions {
        session.send(&all("all"));
        // Asked for meanwhile, answered afterwards.
        let one = json!({"guild_id": guild.id, "user_ids": [owner.id, "5"], "nonce": "one"});
        session.send(&json!({"op": 8, "d": one}));
        session.send(&all("again"));
    }
    for session in &sessions {
        let limited = session.dispatch("RATE_LIMITED", |d| d["meta"]["nonce"] == "again");
        let limited = limited.await;
        assert_eq!(limited["opcode"], 8);
        let after = limited["retry_after"].as_f64().unwrap();
        assert!(0.0 < after && after <= 30.0, "{after}");
        let one = session.dispatch("GUILD_MEMBERS_CHUNK", |d| d["nonce"] == "one");
        assert_eq!(one.await["not_found"], json!(["5"]));
        let log = session.log();
        let chunks: Vec<&Value> = log
            .named("GUILD_MEMBERS_CHUNK")
            .map(e2e::session::Dispatch::d)
            .filter(|d| d["nonce"] == "all")
            .collect();
        assert_eq!(chunks.len(), 21);
        let mut ids = BTreeSet::new();
        for (index, chunk) in chunks.iter().enumerate() {
            assert_eq!(chunk["chunk_index"], index);
            assert_eq!(chunk["chunk_count"], chunks.len());
            for member in chunk["members"].as_array().unwrap() {
                assert!(ids.insert(text(&member["user"]["id"])));
            }
        }
        assert_eq!(ids.len(), COUNT as usize + 2);
        drop(log);
        session.assert_clean();
    }
}
