//! Who sees what: channel permissions, also while they change (I7), intents, kicks, logouts,
//! bot shards, and the ids of strangers' guilds.

use std::collections::BTreeSet;

use e2e::{
    cluster::{Options, Shared},
    ledger::{self, Writers},
    session::Session,
    world::{
        self, Account, Guild, INTENTS,
        permission::{hides, shows},
    },
};
use guildhall_shared::gateway::EventKind;
use serde_json::json;

static CLUSTER: Shared = Shared::new(Options::DEFAULT);

const GUILDS: u32 = 1;
const GUILD_MESSAGES: u32 = 1 << 9;
const MESSAGE_CONTENT: u32 = 1 << 15;

fn of_channel(session: &Session, t: &str, channel: &str) -> usize {
    let log = session.log();
    log.named(t)
        .filter(|dispatch| dispatch.d()["channel_id"] == channel)
        .count()
}

async fn typing(account: &Account, channel: &str) {
    let path = format!("/channels/{channel}/typing");
    account.rest.post_empty(&path).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hidden_channel_is_silent_for_those_who_may_not_see_it() {
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let guest = world::human(&cluster, "guest").await;
    let friend = world::human(&cluster, "friend").await;
    let bot = owner.make_bot("bot").await;
    for gateway in 0..2 {
        let guild = owner.make_guild_on(&cluster, gateway, "house").await;
        for who in [&guest, &friend] {
            owner.invite(&guild, who).await;
        }
        owner.add_bot(&guild, &bot).await;
        let overwrites = json!([hides(&guild.id, 0), shows(&friend.id, 1)]);
        let secret = owner.make_channel(&guild.id, "secret", overwrites).await;

        let blind = [guest.on_both(&cluster).await, bot.on_both(&cluster).await];
        let seeing = [
            owner.on_both(&cluster).await,
            friend.on_both(&cluster).await,
        ];
        for session in seeing.iter().flatten().chain(blind.iter().flatten()) {
            let guild_id = guild.id.as_str();
            session
                .wait("the guild", |log| {
                    log.dispatches
                        .iter()
                        .any(|dispatch| dispatch.frame.raw.contains(guild_id))
                        .then_some(())
                })
                .await;
        }

        typing(&owner, &secret).await;
        let hidden = owner.say(&secret, "between us").await;
        let path = format!("/channels/{secret}/messages/{hidden}");
        owner
            .rest
            .patch(&path, &json!({"content": "still between us"}))
            .await
            .ok();
        owner.rest.delete(&path).await.ok();
        typing(&owner, &guild.channel).await;
        let marker = format!("marker {}", world::random_word());
        owner.say(&guild.channel, &marker).await;

        for session in seeing.iter().flatten() {
            session.message("between us").await;
            session
                .dispatch("MESSAGE_UPDATE", |d| d["id"] == hidden.as_str())
                .await;
            session
                .dispatch("MESSAGE_DELETE", |d| d["id"] == hidden.as_str())
                .await;
        }
        for session in blind.iter().flatten() {
            session.message(&marker).await;
            session
                .dispatch("TYPING_START", |d| {
                    d["channel_id"] == guild.channel.as_str()
                })
                .await;
            for t in [
                "MESSAGE_CREATE",
                "MESSAGE_UPDATE",
                "MESSAGE_DELETE",
                "TYPING_START",
            ] {
                assert_eq!(
                    of_channel(session, t, &secret),
                    0,
                    "{t} of a hidden channel"
                );
            }
            session.assert_clean();
        }
        for account in [&guest, &bot] {
            let path = format!("/channels/{secret}/messages");
            account.rest.get(&path).await.assert_error(403, 50001);
            let form = json!({"content": "let me in"});
            account
                .rest
                .post(&path, &form)
                .await
                .assert_error(403, 50001);
        }
    }
}

/// The channel is hidden and shown again while messages stream into it. Which messages the guest
/// may have is read from the order of the realm's events; both gateways must agree with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoking_and_granting_take_effect_at_their_event() {
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let guest = world::human(&cluster, "guest").await;
    let bot = owner.make_bot("bot").await;
    for gateway in 0..2 {
        let guild = owner.make_guild_on(&cluster, gateway, "house").await;
        owner.invite(&guild, &guest).await;
        owner.add_bot(&guild, &bot).await;
        let channel = owner.make_channel(&guild.id, "on-off", json!([])).await;
        let (guests, bots) = (guest.on_both(&cluster).await, bot.on_both(&cluster).await);
        let owners = owner.on_both(&cluster).await;
        settle(&owner, &channel, guests.iter().chain(&bots).chain(&owners)).await;

        let writers = Writers::start(
            &[
                (owner.clone(), channel.clone()),
                (owner.clone(), channel.clone()),
            ],
            &cluster.origins(),
        );
        let path = format!("/channels/{channel}");
        for _ in 0..3 {
            writers.more(12).await;
            let hidden = json!({"permission_overwrites": [hides(&guild.id, 0)]});
            owner.rest.patch(&path, &hidden).await.ok();
            writers.more(12).await;
            let shown = json!({"permission_overwrites": []});
            owner.rest.patch(&path, &shown).await.ok();
        }
        writers.more(12).await;
        let confirmed = writers.finish().await;

        let db = cluster.db().await.unwrap();
        let stored = ledger::stored(&db, &guild.id).await.unwrap();
        ledger::assert_stored_once(&stored, &confirmed);
        let (mut visible, mut allowed, mut changes) = (true, Vec::new(), 0);
        for (_, kind, d) in ledger::events(&db, &guild.id).await.unwrap() {
            if kind == EventKind::ChannelUpdate.number() && d["id"] == channel.as_str() {
                visible = d["permission_overwrites"]
                    .as_array()
                    .is_some_and(Vec::is_empty);
                changes += 1;
            } else if kind == EventKind::MessageCreate.number()
                && d["channel_id"] == channel.as_str()
                && visible
            {
                let id = d["id"].as_str().unwrap().parse().unwrap();
                allowed.push((id, d["content"].as_str().unwrap().to_owned()));
            }
        }
        assert_eq!(changes, 6);
        assert!(allowed.len() < stored[&channel].len());
        for session in guests.iter().chain(&bots) {
            ledger::assert_received("guest", session, &channel, &allowed, true).await;
        }
        for session in &owners {
            ledger::assert_received("owner", session, &channel, &stored[&channel], true).await;
        }
    }
}

/// Waits until all of `sessions` get the messages of a channel.
async fn settle(writer: &Account, channel: &str, sessions: impl Iterator<Item = &Session> + Clone) {
    let content = format!("settled {}", world::random_word());
    writer.say(channel, &content).await;
    for session in sessions {
        session.message(&content).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_needs_its_intent_unless_the_message_is_own_or_mentions() {
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let bot = owner.make_bot("bot").await;
    let guild = owner.make_guild_on(&cluster, 1, "house").await;
    owner.add_bot(&guild, &bot).await;
    let url = cluster.gateways[0].url();
    let with =
        Session::start(bot.login(vec![url.clone()], GUILDS | GUILD_MESSAGES | MESSAGE_CONTENT))
            .await;
    let without = Session::start(bot.login(vec![url], GUILDS | GUILD_MESSAGES)).await;

    let plain = owner.say(&guild.channel, "plain").await;
    let mention = format!("hello <@{}>", bot.id);
    let mentioned = owner.say(&guild.channel, &mention).await;
    let own = bot.say(&guild.channel, "my own").await;
    let path = format!("/channels/{}/messages/{plain}", guild.channel);
    owner
        .rest
        .patch(&path, &json!({"content": "plainer"}))
        .await
        .ok();
    for (session, plain_content, edited_content) in
        [(&with, "plain", "plainer"), (&without, "", "")]
    {
        for (id, content) in [
            (&plain, plain_content),
            (&mentioned, mention.as_str()),
            (&own, "my own"),
        ] {
            let d = session
                .dispatch("MESSAGE_CREATE", |d| d["id"] == id.as_str())
                .await;
            assert_eq!(d["content"], content);
            if content.is_empty() {
                for key in ["embeds", "attachments", "components"] {
                    assert_eq!(d[key], json!([]), "{key}");
                }
            }
            assert_eq!(d["guild_id"], guild.id.as_str());
        }
        let d = session
            .dispatch("MESSAGE_UPDATE", |d| d["id"] == plain.as_str())
            .await;
        assert_eq!(d["content"], edited_content);
        session.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intents_choose_the_events() {
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let bot = owner.make_bot("bot").await;
    let guild = owner.make_guild_on(&cluster, 0, "house").await;
    owner.add_bot(&guild, &bot).await;
    let login = |intents| bot.login(vec![cluster.gateways[1].url()], intents);
    let structure = Session::start(login(GUILDS)).await;
    let messages = Session::start(login(GUILD_MESSAGES)).await;
    let nothing = Session::start(login(0)).await;
    structure
        .dispatch("GUILD_CREATE", |d| d["id"] == guild.id.as_str())
        .await;

    owner.say(&guild.channel, "hello").await;
    typing(&owner, &guild.channel).await;
    let channel = owner.make_channel(&guild.id, "new", json!([])).await;
    owner.say(&channel, "the last").await;
    structure
        .dispatch("CHANNEL_CREATE", |d| d["id"] == channel.as_str())
        .await;
    messages
        .dispatch("MESSAGE_CREATE", |d| d["channel_id"] == channel.as_str())
        .await;
    // The bot's own rename reaches every session of it, last.
    let rename = json!({"username": format!("renamed.{}", world::random_word())});
    let renamed = bot.rest.patch("/users/@me", &rename).await;
    if renamed.status == 200 {
        nothing.dispatch("USER_UPDATE", |_| true).await;
    }
    let names = |session: &Session| -> BTreeSet<String> {
        let log = session.log();
        log.dispatches
            .iter()
            .map(|dispatch| dispatch.t().to_owned())
            .collect()
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    // What a bot always gets of itself.
    let of_others = |mut names: BTreeSet<String>| {
        names.remove("USER_UPDATE");
        names.remove("GUILD_MEMBER_UPDATE");
        names
    };
    let expected: BTreeSet<String> = set(&["READY", "GUILD_CREATE", "CHANNEL_CREATE"]);
    assert_eq!(of_others(names(&structure)), expected);
    let expected: BTreeSet<String> = set(&["READY", "MESSAGE_CREATE"]);
    assert_eq!(of_others(names(&messages)), expected);
    let expected: BTreeSet<String> = set(&["READY"]);
    assert_eq!(of_others(names(&nothing)), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kicked_member_gets_guild_delete_and_nothing_after() {
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let guest = world::human(&cluster, "guest").await;
    let bot = owner.make_bot("bot").await;
    let watcher = owner.make_bot("watcher").await;
    let guild = owner.make_guild_on(&cluster, 0, "house").await;
    owner.invite(&guild, &guest).await;
    owner.add_bot(&guild, &bot).await;
    owner.add_bot(&guild, &watcher).await;
    let (guests, bots) = (guest.on_both(&cluster).await, bot.on_both(&cluster).await);
    let owners = owner.on_both(&cluster).await;
    // Humans are not told of members; a bot with the intent is.
    let watchers = watcher.on_both(&cluster).await;
    let all = guests.iter().chain(&bots).chain(&owners).chain(&watchers);
    settle(&owner, &guild.channel, all).await;

    let writers = Writers::start(
        &[(owner.clone(), guild.channel.clone())],
        &cluster.origins(),
    );
    writers.more(10).await;
    for who in [&guest, &bot] {
        let path = format!("/guilds/{}/members/{}", guild.id, who.id);
        assert_eq!(owner.rest.delete(&path).await.status, 204);
        writers.more(10).await;
    }
    writers.finish().await;

    let db = cluster.db().await.unwrap();
    let stored = ledger::stored(&db, &guild.id).await.unwrap();
    for (who, sessions) in [(&guest, &guests), (&bot, &bots)] {
        let mut allowed = Vec::new();
        for (_, kind, d) in ledger::events(&db, &guild.id).await.unwrap() {
            if kind == EventKind::GuildMemberRemove.number() && d["user"]["id"] == who.id.as_str() {
                break;
            }
            if kind == EventKind::MessageCreate.number() {
                let id: u64 = d["id"].as_str().unwrap().parse().unwrap();
                allowed.push((id, d["content"].as_str().unwrap().to_owned()));
            }
        }
        for session in sessions {
            let gone = session
                .dispatch("GUILD_DELETE", |d| d["id"] == guild.id.as_str())
                .await;
            assert!(gone["unavailable"].is_null(), "kicked is no outage: {gone}");
            let received: Vec<u64> = session
                .messages(&guild.channel)
                .iter()
                .map(|(id, ..)| *id)
                .collect();
            // What came between joining and this session's start is not this session's.
            let start = allowed
                .iter()
                .position(|(id, _)| Some(id) == received.first())
                .unwrap();
            let expected: Vec<u64> = allowed[start..].iter().map(|(id, _)| *id).collect();
            assert_eq!(received, expected);
            session.assert_clean();
        }
        for session in &watchers {
            session
                .dispatch("GUILD_MEMBER_REMOVE", |d| {
                    d["user"]["id"] == who.id.as_str()
                })
                .await;
        }
        let reply = who.rest.get(&format!("/channels/{}", guild.channel)).await;
        assert!(matches!(reply.status, 403 | 404), "{}", reply.status);
    }
    for session in owners.iter().chain(&watchers) {
        let all = &stored[&guild.channel];
        let (first, ..) = session.messages(&guild.channel)[0];
        let start = all.iter().position(|(id, _)| *id == first).unwrap();
        ledger::assert_received("owner", session, &guild.channel, &all[start..], true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_tokens_close_their_sessions() {
    let cluster = CLUSTER.cluster().await;
    let human = world::human(&cluster, "human").await;
    let bot = human.make_bot("bot").await;
    let sessions = [human.on_both(&cluster).await, bot.on_both(&cluster).await];
    let application = bot.application.as_deref().unwrap();
    let path = format!("/applications/{application}/bot/reset");
    human.rest.post(&path, &json!({})).await.ok();
    assert_eq!(
        human.rest.post("/auth/logout", &json!({})).await.status,
        204
    );
    for session in sessions.iter().flatten() {
        e2e::wait::until("close 4004", || async {
            (session.log().fatal == Some(4004)).then_some(())
        })
        .await;
    }
    human.rest.get("/users/@me").await.assert_error(401, 0);
    bot.rest.get("/users/@me").await.assert_error(401, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bot_shards_share_the_guilds_between_them() {
    const COUNT: u64 = 2;
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let bot = owner.make_bot("bot").await;
    let shard_of = |guild: &Guild| (guild.id.parse::<u64>().unwrap() >> 22) % COUNT;
    let mut guilds: Vec<Guild> = Vec::new();
    while (0..COUNT).any(|shard| guilds.iter().filter(|g| shard_of(g) == shard).count() < 2) {
        let guild = owner.make_guild("house").await;
        owner.add_bot(&guild, &bot).await;
        guilds.push(guild);
    }
    let mut shards = Vec::new();
    for shard in 0..COUNT {
        let mut login = bot.login(vec![cluster.gateways[shard as usize].url()], INTENTS);
        login.shard = Some([shard as u32, COUNT as u32]);
        shards.push(Session::start(login).await);
    }
    for guild in &guilds {
        owner.say(&guild.channel, "roll call").await;
    }
    for (shard, session) in (0..COUNT).zip(&shards) {
        let mine: BTreeSet<&str> = guilds
            .iter()
            .filter(|guild| shard_of(guild) == shard)
            .map(|guild| guild.id.as_str())
            .collect();
        for guild in &mine {
            session
                .dispatch("MESSAGE_CREATE", |d| d["guild_id"] == *guild)
                .await;
            session
                .dispatch("GUILD_CREATE", |d| d["id"] == *guild)
                .await;
        }
        let log = session.log();
        let ready = log.named("READY").next().unwrap().d();
        assert_eq!(ready["shard"], json!([shard, COUNT]));
        let listed: BTreeSet<&str> = ready["guilds"]
            .as_array()
            .unwrap()
            .iter()
            .map(|guild| guild["id"].as_str().unwrap())
            .collect();
        assert_eq!(listed, mine);
        for dispatch in log.named("MESSAGE_CREATE").chain(log.named("GUILD_CREATE")) {
            let d = dispatch.d();
            let guild = d["guild_id"].as_str().or(d["id"].as_str()).unwrap();
            assert!(mine.contains(guild), "of another shard: {d}");
        }
    }
    // Where its bot is not, an application hears of itself by the first shard alone.
    let other = owner.make_guild("its commands alone").await;
    let application = bot.application.as_deref().unwrap();
    let path = format!("/oauth2/authorize?client_id={application}&scope=applications.commands");
    let form = json!({"authorize": true, "guild_id": other.id});
    owner.rest.post(&path, &form).await.ok();
    let path = format!(
        "/applications/{application}/guilds/{}/commands/{application}/permissions",
        other.id
    );
    let form = json!({"permissions": [{"id": other.id, "type": 1, "permission": false}]});
    owner.rest.put(&path, &form).await.ok();
    let is_it = |d: &serde_json::Value| d["guild_id"] == other.id.as_str();
    shards[0]
        .dispatch("APPLICATION_COMMAND_PERMISSIONS_UPDATE", is_it)
        .await;
    // The other shard had all the time of this one to get what is not its own.
    for guild in &guilds {
        owner.say(&guild.channel, "the end").await;
    }
    for (shard, session) in (0..COUNT).zip(&shards) {
        session.message("the end").await;
        let log = session.log();
        for dispatch in log.named("MESSAGE_CREATE") {
            let guild: u64 = dispatch.d()["guild_id"].as_str().unwrap().parse().unwrap();
            assert_eq!((guild >> 22) % COUNT, shard);
        }
        let of_itself = log.named("APPLICATION_COMMAND_PERMISSIONS_UPDATE").count();
        assert_eq!(of_itself, usize::from(shard == 0));
        drop(log);
        session.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_of_strangers_open_nothing() {
    let cluster = CLUSTER.cluster().await;
    let owner = world::human(&cluster, "owner").await;
    let guild = owner.make_guild("house").await;
    let message = owner.say(&guild.channel, "private").await;
    let stranger = world::human(&cluster, "stranger").await;
    let strange_bot = stranger.make_bot("strangebot").await;
    let (g, c) = (&guild.id, &guild.channel);
    let name = json!({"name": "mine now"});
    let content = json!({"content": "mine now"});
    for who in [&stranger, &strange_bot] {
        let rest = &who.rest;
        let replies = [
            rest.get(&format!("/guilds/{g}")).await,
            rest.get(&format!("/guilds/{g}/channels")).await,
            rest.get(&format!("/guilds/{g}/roles")).await,
            rest.get(&format!("/guilds/{g}/members/{}", owner.id)).await,
            rest.patch(&format!("/guilds/{g}"), &name).await,
            rest.delete(&format!("/guilds/{g}")).await,
            rest.post(&format!("/guilds/{g}/channels"), &name).await,
            rest.get(&format!("/channels/{c}")).await,
            rest.patch(&format!("/channels/{c}"), &name).await,
            rest.delete(&format!("/channels/{c}")).await,
            rest.get(&format!("/channels/{c}/messages")).await,
            rest.get(&format!("/channels/{c}/messages/{message}")).await,
            rest.post(&format!("/channels/{c}/messages"), &content)
                .await,
            rest.patch(&format!("/channels/{c}/messages/{message}"), &content)
                .await,
            rest.delete(&format!("/channels/{c}/messages/{message}"))
                .await,
            rest.post_empty(&format!("/channels/{c}/typing")).await,
            rest.post(&format!("/channels/{c}/invites"), &json!({}))
                .await,
        ];
        for reply in replies {
            assert!(matches!(reply.status, 403 | 404), "{reply:?}");
            assert!(reply.body["code"].is_u64(), "{reply:?}");
        }
    }
    let application = strange_bot.application.as_deref().unwrap();
    let path = format!("/oauth2/authorize?client_id={application}&scope=bot&permissions=0");
    let form = json!({"authorize": true, "guild_id": g, "permissions": "0"});
    let reply = stranger.rest.post(&path, &form).await;
    assert!((400..500).contains(&reply.status), "{reply:?}");
    let path = format!("/applications/{application}/bot/reset");
    let reply = owner.rest.post(&path, &json!({})).await;
    assert!(matches!(reply.status, 403 | 404), "{reply:?}");

    let kept = owner.rest.get(&format!("/guilds/{g}")).await.ok();
    assert_eq!(kept["name"], "house");
    let path = format!("/channels/{c}/messages/{message}");
    assert_eq!(owner.rest.get(&path).await.ok()["content"], "private");
}
