//! Messages, reactions, pins, polls, webhooks, search, read states.

use serde_json::{Value, json};

use super::{Book, Proof, World};
use crate::world::text;

/// Nobody's message, channel, user.
const NOTHING: &str = "100000000000000001";
const THUMB: &str = "%F0%9F%91%8D";

/// An id of a body; ids rise with time.
fn number(id: &Value) -> Option<u64> {
    id.as_str()?.parse().ok()
}

pub(super) async fn prove(world: &World, book: &mut Book) {
    messages(world, book).await;
    deletions(world, book).await;
    reactions(world, book).await;
    reaction_removals(world, book).await;
    pins(world, book).await;
    polls(world, book).await;
    webhooks(world, book).await;
    webhook_messages(world, book).await;
    following(world, book).await;
    search(world, book).await;
    read_states(world, book).await;
}

fn of(id: &str) -> impl Fn(&Value) -> bool {
    move |d| d["id"] == id
}

fn at(message: &str) -> impl Fn(&Value) -> bool {
    move |d| d["message_id"] == message
}

async fn messages(world: &World, book: &mut Book) {
    let World {
        owner,
        member,
        stranger,
        bot,
        guild,
        ..
    } = world;
    let (lobby, secret) = (&guild.lobby, &guild.secret);
    let path = format!("/channels/{lobby}/messages");
    let hidden = format!("/channels/{secret}/messages");
    let mut id = String::new();
    book.prove("create_message", async |p: &mut Proof| {
        let form = json!({
            "content": format!("hello <@{}>", bot.id), "nonce": "7", "enforce_nonce": true,
            "embeds": [{"title": "t", "fields": [{"name": "a", "value": "b"}]}],
        });
        let made = p.answers(bot.rest.post(&path, &form).await);
        id = text(&made["id"]);
        let again = bot.rest.post(&path, &form).await.body;
        p.acts(
            again["id"] == id.as_str(),
            "the same nonce makes the same message",
        );
        p.acts(made["embeds"][0]["title"] == "t", "the embed is there");
        let read = member.rest.get(&format!("{path}/{id}")).await.body;
        p.acts(read["content"] == made["content"], "the content reads");
        p.event(&[bot, member, owner], "MESSAGE_CREATE", of(&id))
            .await;
        p.nobody_else(&[stranger], "MESSAGE_CREATE", of(&id)).await;
        let unseen = text(&bot.rest.post(&hidden, &json!({"content": "x"})).await.ok()["id"]);
        p.event(&[owner], "MESSAGE_CREATE", of(&unseen)).await;
        p.nobody_else(&[member, stranger], "MESSAGE_CREATE", of(&unseen))
            .await;
        let say = json!({"content": "x"});
        p.refuses(member.rest.post(&hidden, &say).await, 403, 50001);
        p.refuses(stranger.rest.post(&path, &say).await, 403, 50001);
        p.refuses(bot.rest.post(&path, &json!({})).await, 400, 50006);
        let nowhere = format!("/channels/{NOTHING}/messages");
        p.refuses(bot.rest.post(&nowhere, &say).await, 404, 10003);
        let long = json!({"content": "x".repeat(2001)});
        p.faults(
            bot.rest.post(&path, &long).await,
            "content",
            "BASE_TYPE_MAX_LENGTH",
        );
    })
    .await;
    book.prove("get_message", async |p: &mut Proof| {
        let read = p.answers(member.rest.get(&format!("{path}/{id}")).await);
        p.acts(read["author"]["id"] == bot.id.as_str(), "the author reads");
        p.refuses(
            member.rest.get(&format!("{path}/{NOTHING}")).await,
            404,
            10008,
        );
        p.refuses(stranger.rest.get(&format!("{path}/{id}")).await, 403, 50001);
    })
    .await;
    book.prove("list_messages", async |p: &mut Proof| {
        let newer = bot.account.say(lobby, "newer").await;
        let list = p.answers(member.rest.get(&format!("{path}?limit=2")).await);
        p.acts(list[0]["id"] == newer.as_str(), "the newest is first");
        let older = member
            .rest
            .get(&format!("{path}?before={newer}&limit=1"))
            .await
            .body;
        p.acts(
            number(&older[0]["id"]) < number(&json!(newer)),
            "before is exclusive",
        );
        let after = member
            .rest
            .get(&format!("{path}?after={id}&limit=1"))
            .await
            .body;
        p.acts(
            number(&after[0]["id"]) > number(&json!(id)),
            "after is exclusive",
        );
        p.refuses(member.rest.get(&hidden).await, 403, 50001);
        p.faults(
            member.rest.get(&format!("{path}?limit=101")).await,
            "limit",
            "NUMBER_TYPE_MAX",
        );
    })
    .await;
    book.prove("update_message", async |p: &mut Proof| {
        let one = format!("{path}/{id}");
        let edited = p.answers(bot.rest.patch(&one, &json!({"content": "changed"})).await);
        p.acts(
            edited["edited_timestamp"].is_string(),
            "the edit has a time",
        );
        let is_it = |d: &Value| d["id"] == id.as_str() && d["content"] == "changed";
        p.event(&[bot, member], "MESSAGE_UPDATE", is_it).await;
        p.nobody_else(&[stranger], "MESSAGE_UPDATE", is_it).await;
        p.refuses(
            member.rest.patch(&one, &json!({"content": "mine"})).await,
            403,
            50005,
        );
        p.refuses(
            bot.rest
                .patch(&format!("{path}/{NOTHING}"), &json!({"content": "x"}))
                .await,
            404,
            10008,
        );
    })
    .await;
    book.prove("trigger_typing_indicator", async |p: &mut Proof| {
        let typing = format!("/channels/{lobby}/typing");
        p.answers(member.rest.post_empty(&typing).await);
        let is_it =
            |d: &Value| d["user_id"] == member.id.as_str() && d["channel_id"] == lobby.as_str();
        p.event(&[bot, owner], "TYPING_START", is_it).await;
        p.nobody_else(&[stranger], "TYPING_START", is_it).await;
        p.refuses(stranger.rest.post_empty(&typing).await, 403, 50001);
    })
    .await;
}

async fn deletions(world: &World, book: &mut Book) {
    let World {
        member,
        stranger,
        bot,
        guild,
        ..
    } = world;
    let lobby = &guild.lobby;
    let path = format!("/channels/{lobby}/messages");
    book.prove("delete_message", async |p: &mut Proof| {
        let theirs = bot.account.say(lobby, "the bot's").await;
        let own = member.account.say(lobby, "the member's").await;
        p.refuses(
            member.rest.delete(&format!("{path}/{theirs}")).await,
            403,
            50013,
        );
        p.answers(member.rest.delete(&format!("{path}/{own}")).await);
        p.event(&[bot, member], "MESSAGE_DELETE", of(&own)).await;
        p.nobody_else(&[stranger], "MESSAGE_DELETE", of(&own)).await;
        let gone = member.rest.get(&format!("{path}/{own}")).await;
        p.acts(gone.code() == 10008, "it is gone");
        p.refuses(
            member.rest.delete(&format!("{path}/{own}")).await,
            404,
            10008,
        );
    })
    .await;
    book.prove("bulk_delete_messages", async |p: &mut Proof| {
        let (one, two) = (
            member.account.say(lobby, "1").await,
            member.account.say(lobby, "2").await,
        );
        let bulk = format!("{path}/bulk-delete");
        let form = json!({"messages": [one, two]});
        p.answers(bot.rest.post(&bulk, &form).await);
        let is_it = |d: &Value| {
            d["ids"]
                .as_array()
                .is_some_and(|ids| ids.contains(&json!(one)))
        };
        p.event(&[bot, member], "MESSAGE_DELETE_BULK", is_it).await;
        p.nobody_else(&[stranger], "MESSAGE_DELETE_BULK", is_it)
            .await;
        let gone = member.rest.get(&format!("{path}/{two}")).await;
        p.acts(gone.code() == 10008, "they are gone");
        p.faults(
            bot.rest.post(&bulk, &json!({"messages": [one]})).await,
            "messages",
            "BASE_TYPE_BAD_LENGTH",
        );
        p.refuses(
            bot.rest
                .post(&bulk, &json!({"messages": ["1000", "2000"]}))
                .await,
            400,
            50034,
        );
    })
    .await;
}

async fn reactions(world: &World, book: &mut Book) {
    let World {
        owner,
        member,
        stranger,
        bot,
        guild,
        ..
    } = world;
    let message = bot.account.say(&guild.lobby, "react").await;
    let path = format!("/channels/{}/messages/{message}/reactions", guild.lobby);
    book.prove("add_my_message_reaction", async |p: &mut Proof| {
        p.answers(
            member
                .rest
                .put(&format!("{path}/{THUMB}/@me"), &json!({}))
                .await,
        );
        let is_it = |d: &Value| d["message_id"] == message.as_str() && d["emoji"]["name"] == "👍";
        let event = p.event(&[owner, bot], "MESSAGE_REACTION_ADD", is_it).await;
        p.acts(
            event["member"]["user"]["id"] == member.id.as_str(),
            "the event names the member",
        );
        p.nobody_else(&[stranger], "MESSAGE_REACTION_ADD", is_it)
            .await;
        let one = format!("/channels/{}/messages/{message}", guild.lobby);
        let read = member.rest.get(&one).await.body;
        p.acts(
            read["reactions"][0]["count"] == 1 && read["reactions"][0]["me"] == true,
            "it is counted",
        );
        let gone = format!(
            "/channels/{}/messages/{NOTHING}/reactions/{THUMB}/@me",
            guild.lobby
        );
        p.refuses(member.rest.put(&gone, &json!({})).await, 404, 10008);
        p.refuses(
            member
                .rest
                .put(&format!("{path}/nonsense/@me"), &json!({}))
                .await,
            400,
            10014,
        );
        p.refuses(
            stranger
                .rest
                .put(&format!("{path}/{THUMB}/@me"), &json!({}))
                .await,
            403,
            50001,
        );
    })
    .await;
    book.prove("list_message_reactions_by_emoji", async |p: &mut Proof| {
        let list = p.answers(bot.rest.get(&format!("{path}/{THUMB}")).await);
        p.acts(list[0]["id"] == member.id.as_str(), "the user is listed");
        p.faults(
            bot.rest.get(&format!("{path}/{THUMB}?limit=0")).await,
            "limit",
            "NUMBER_TYPE_MIN",
        );
        p.refuses(
            stranger.rest.get(&format!("{path}/{THUMB}")).await,
            403,
            50001,
        );
    })
    .await;
    book.prove("delete_my_message_reaction", async |p: &mut Proof| {
        p.answers(member.rest.delete(&format!("{path}/{THUMB}/@me")).await);
        p.event(&[owner, bot], "MESSAGE_REACTION_REMOVE", at(&message))
            .await;
        p.nobody_else(&[stranger], "MESSAGE_REACTION_REMOVE", at(&message))
            .await;
        let list = bot.rest.get(&format!("{path}/{THUMB}")).await.body;
        p.acts(list == json!([]), "nobody is listed any more");
        p.refuses(
            stranger.rest.delete(&format!("{path}/{THUMB}/@me")).await,
            403,
            50001,
        );
    })
    .await;
    book.prove("reaction_delete_typed", async |p: &mut Proof| {
        member
            .rest
            .put(&format!("{path}/{THUMB}/@me"), &json!({}))
            .await
            .ok();
        p.answers(member.rest.delete(&format!("{path}/{THUMB}/0/@me")).await);
        let list = bot.rest.get(&format!("{path}/{THUMB}")).await.body;
        p.acts(list == json!([]), "nobody is listed any more");
        p.refuses(
            stranger.rest.delete(&format!("{path}/{THUMB}/0/@me")).await,
            403,
            50001,
        );
    })
    .await;
}

async fn reaction_removals(world: &World, book: &mut Book) {
    let World {
        owner,
        member,
        stranger,
        bot,
        guild,
        ..
    } = world;
    let message = bot.account.say(&guild.lobby, "react again").await;
    let path = format!("/channels/{}/messages/{message}/reactions", guild.lobby);
    let react = async || {
        member
            .rest
            .put(&format!("{path}/{THUMB}/@me"), &json!({}))
            .await
            .ok();
    };
    let left = async || bot.rest.get(&format!("{path}/{THUMB}")).await.body;
    book.prove("delete_user_message_reaction", async |p: &mut Proof| {
        react().await;
        let one = format!("{path}/{THUMB}/{}", member.id);
        p.answers(bot.rest.delete(&one).await);
        p.acts(left().await == json!([]), "it is gone");
        p.event(&[owner, member], "MESSAGE_REACTION_REMOVE", at(&message))
            .await;
        p.nobody_else(&[stranger], "MESSAGE_REACTION_REMOVE", at(&message))
            .await;
        p.refuses(
            member
                .rest
                .delete(&format!("{path}/{THUMB}/{}", bot.id))
                .await,
            403,
            50013,
        );
    })
    .await;
    book.prove("reaction_delete_typed_user", async |p: &mut Proof| {
        react().await;
        p.answers(
            owner
                .rest
                .delete(&format!("{path}/{THUMB}/0/{}", member.id))
                .await,
        );
        p.acts(left().await == json!([]), "it is gone");
        p.refuses(
            member
                .rest
                .delete(&format!("{path}/{THUMB}/0/{}", bot.id))
                .await,
            403,
            50013,
        );
    })
    .await;
    book.prove(
        "delete_all_message_reactions_by_emoji",
        async |p: &mut Proof| {
            react().await;
            p.answers(bot.rest.delete(&format!("{path}/{THUMB}")).await);
            p.acts(left().await == json!([]), "they are gone");
            p.event(
                &[owner, member],
                "MESSAGE_REACTION_REMOVE_EMOJI",
                at(&message),
            )
            .await;
            p.nobody_else(&[stranger], "MESSAGE_REACTION_REMOVE_EMOJI", at(&message))
                .await;
            p.refuses(
                member.rest.delete(&format!("{path}/{THUMB}")).await,
                403,
                50013,
            );
        },
    )
    .await;
    book.prove("delete_all_message_reactions", async |p: &mut Proof| {
        react().await;
        p.answers(bot.rest.delete(&path).await);
        p.acts(left().await == json!([]), "they are gone");
        p.event(
            &[owner, member],
            "MESSAGE_REACTION_REMOVE_ALL",
            at(&message),
        )
        .await;
        p.nobody_else(&[stranger], "MESSAGE_REACTION_REMOVE_ALL", at(&message))
            .await;
        p.refuses(member.rest.delete(&path).await, 403, 50013);
    })
    .await;
}

async fn pins(world: &World, book: &mut Book) {
    let World {
        owner,
        member,
        stranger,
        bot,
        guild,
        ..
    } = world;
    let lobby = &guild.lobby;
    for (create, list, delete, path) in [
        (
            "create_pin",
            "list_pins",
            "delete_pin",
            format!("/channels/{lobby}/messages/pins"),
        ),
        (
            "deprecated_create_pin",
            "deprecated_list_pins",
            "deprecated_delete_pin",
            format!("/channels/{lobby}/pins"),
        ),
    ] {
        let message = bot.account.say(lobby, "pin").await;
        let in_lobby = |d: &Value| d["channel_id"] == lobby.as_str();
        book.prove(create, async |p: &mut Proof| {
            p.answers(bot.rest.put(&format!("{path}/{message}"), &json!({})).await);
            p.event(&[owner, member], "CHANNEL_PINS_UPDATE", in_lobby)
                .await;
            p.nobody_else(&[stranger], "CHANNEL_PINS_UPDATE", in_lobby)
                .await;
            let says = |d: &Value| {
                d["type"] == 6 && d["message_reference"]["message_id"] == message.as_str()
            };
            p.event(&[bot, member], "MESSAGE_CREATE", says).await;
            let read = bot
                .rest
                .get(&format!("/channels/{lobby}/messages/{message}"))
                .await
                .body;
            p.acts(read["pinned"] == true, "it reads as pinned");
            p.refuses(
                member
                    .rest
                    .put(&format!("{path}/{message}"), &json!({}))
                    .await,
                403,
                50013,
            );
            p.refuses(
                bot.rest.put(&format!("{path}/{NOTHING}"), &json!({})).await,
                404,
                10008,
            );
        })
        .await;
        book.prove(list, async |p: &mut Proof| {
            let listed = p.answers(member.rest.get(&path).await);
            let first = match listed.is_array() {
                true => &listed[0]["id"],
                false => &listed["items"][0]["message"]["id"],
            };
            p.acts(first == message.as_str(), "the pin is listed");
            p.refuses(stranger.rest.get(&path).await, 403, 50001);
        })
        .await;
        book.prove(delete, async |p: &mut Proof| {
            p.refuses(
                member.rest.delete(&format!("{path}/{message}")).await,
                403,
                50013,
            );
            p.answers(bot.rest.delete(&format!("{path}/{message}")).await);
            let changed = |d: &Value| d["id"] == message.as_str() && d["pinned"] == false;
            p.event(&[owner, member], "MESSAGE_UPDATE", changed).await;
            p.nobody_else(&[stranger], "MESSAGE_UPDATE", changed).await;
            let read = bot
                .rest
                .get(&format!("/channels/{lobby}/messages/{message}"))
                .await
                .body;
            p.acts(read["pinned"] == false, "it reads as not pinned");
        })
        .await;
    }
}

async fn polls(world: &World, book: &mut Book) {
    let World {
        owner,
        member,
        stranger,
        bot,
        guild,
        ..
    } = world;
    let messages = format!("/channels/{}/messages", guild.lobby);
    let form = json!({"poll": {
        "question": {"text": "which?"},
        "answers": [{"poll_media": {"text": "one"}}, {"poll_media": {"text": "two"}}],
        "duration": 1,
    }});
    let mut poll = String::new();
    book.prove("create_message", async |p: &mut Proof| {
        let made = p.answers(bot.rest.post(&messages, &form).await);
        poll = text(&made["id"]);
        p.acts(
            made["poll"]["answers"][1]["answer_id"] == 2,
            "the answers are numbered",
        );
    })
    .await;
    let path = format!("/channels/{}/polls/{poll}", guild.lobby);
    book.prove("poll_vote", async |p: &mut Proof| {
        let vote = format!("{path}/answers/@me");
        p.answers(member.rest.put(&vote, &json!({"answer_ids": [2]})).await);
        let is_it = |d: &Value| d["message_id"] == poll.as_str() && d["answer_id"] == 2;
        p.event(&[owner, bot], "MESSAGE_POLL_VOTE_ADD", is_it).await;
        p.nobody_else(&[stranger], "MESSAGE_POLL_VOTE_ADD", is_it)
            .await;
        p.acts(true, "the vote was told");
        p.refuses(
            stranger.rest.put(&vote, &json!({"answer_ids": [2]})).await,
            403,
            50001,
        );
    })
    .await;
    book.prove("get_answer_voters", async |p: &mut Proof| {
        let voters = p.answers(bot.rest.get(&format!("{path}/answers/2")).await);
        p.acts(
            voters["users"][0]["id"] == member.id.as_str(),
            "the voter is listed",
        );
        p.refuses(
            stranger.rest.get(&format!("{path}/answers/2")).await,
            403,
            50001,
        );
    })
    .await;
    book.prove("poll_expire", async |p: &mut Proof| {
        p.refuses(
            stranger.rest.post_empty(&format!("{path}/expire")).await,
            403,
            50001,
        );
        let ended = p.answers(bot.rest.post_empty(&format!("{path}/expire")).await);
        p.acts(
            ended["poll"]["results"]["is_finalized"] == true,
            "the results are final",
        );
        let is_it =
            |d: &Value| d["id"] == poll.as_str() && d["poll"]["results"]["is_finalized"] == true;
        p.event(&[owner, member], "MESSAGE_UPDATE", is_it).await;
        p.nobody_else(&[stranger], "MESSAGE_UPDATE", is_it).await;
    })
    .await;
}

async fn webhooks(world: &World, book: &mut Book) {
    let World {
        owner,
        member,
        stranger,
        bot,
        guild,
        ..
    } = world;
    let path = format!("/channels/{}/webhooks", guild.lobby);
    let in_lobby = |d: &Value| d["channel_id"] == guild.lobby.as_str();
    let mut hook = Value::Null;
    book.prove("create_webhook", async |p: &mut Proof| {
        hook = p.answers(bot.rest.post(&path, &json!({"name": "news"})).await);
        p.event(&[owner, bot], "WEBHOOKS_UPDATE", in_lobby).await;
        p.nobody_else(&[stranger], "WEBHOOKS_UPDATE", in_lobby)
            .await;
        p.acts(hook["token"].is_string(), "its token is told");
        p.refuses(
            member.rest.post(&path, &json!({"name": "news"})).await,
            403,
            50013,
        );
        p.faults(
            bot.rest.post(&path, &json!({})).await,
            "name",
            "BASE_TYPE_REQUIRED",
        );
    })
    .await;
    let (id, token) = (text(&hook["id"]), text(&hook["token"]));
    for (operation, list) in [
        ("list_channel_webhooks", path.clone()),
        (
            "get_guild_webhooks",
            format!("/guilds/{}/webhooks", guild.id),
        ),
    ] {
        book.prove(operation, async |p: &mut Proof| {
            let listed = p.answers(bot.rest.get(&list).await);
            let mut listed = listed.as_array().into_iter().flatten();
            p.acts(listed.any(|hook| hook["id"] == id.as_str()), "it is listed");
            p.refuses(member.rest.get(&list).await, 403, 50013);
            p.refuses(stranger.rest.get(&list).await, 403, 50001);
        })
        .await;
    }
    let one = format!("/webhooks/{id}");
    let with_token = format!("{one}/{token}");
    book.prove("get_webhook", async |p: &mut Proof| {
        let read = p.answers(bot.rest.get(&one).await);
        p.acts(read["name"] == "news", "the name reads");
        p.refuses(member.rest.get(&one).await, 403, 50013);
        p.refuses(
            bot.rest.get(&format!("/webhooks/{NOTHING}")).await,
            404,
            10015,
        );
    })
    .await;
    let nobody = crate::rest::Rest::new(&world.origin);
    book.prove("get_webhook_by_token", async |p: &mut Proof| {
        let read = p.answers(nobody.get(&with_token).await);
        p.acts(
            read["name"] == "news" && read["user"].is_null(),
            "it reads without its maker",
        );
        p.refuses(nobody.get(&format!("{one}/wrong")).await, 401, 50027);
    })
    .await;
    book.prove("update_webhook", async |p: &mut Proof| {
        let changed = p.answers(bot.rest.patch(&one, &json!({"name": "gazette"})).await);
        p.acts(changed["name"] == "gazette", "the name changes");
        p.event(&[owner], "WEBHOOKS_UPDATE", in_lobby).await;
        p.refuses(
            member.rest.patch(&one, &json!({"name": "mine"})).await,
            403,
            50013,
        );
    })
    .await;
    book.prove("update_webhook_by_token", async |p: &mut Proof| {
        let changed = p.answers(nobody.patch(&with_token, &json!({"name": "herald"})).await);
        p.acts(changed["name"] == "herald", "the name changes");
        p.refuses(
            nobody
                .patch(&format!("{one}/wrong"), &json!({"name": "x"}))
                .await,
            401,
            50027,
        );
    })
    .await;
    book.prove("execute_webhook", async |p: &mut Proof| {
        let form = json!({"content": "from afar", "username": "Crier"});
        let said = p.answers(nobody.post(&format!("{with_token}?wait=true"), &form).await);
        let said_id = text(&said["id"]);
        p.acts(
            said["author"]["username"] == "Crier",
            "the name is the request's",
        );
        let event = p
            .event(&[bot, member], "MESSAGE_CREATE", of(&said_id))
            .await;
        p.acts(
            event["webhook_id"] == id.as_str(),
            "the event names the webhook",
        );
        p.nobody_else(&[stranger], "MESSAGE_CREATE", of(&said_id))
            .await;
        p.refuses(
            nobody.post(&format!("{one}/wrong"), &form).await,
            401,
            50027,
        );
        p.refuses(nobody.post(&with_token, &json!({})).await, 400, 50006);
    })
    .await;
    for (operation, form) in [
        (
            "execute_slack_compatible_webhook",
            json!({"text": "slack says", "username": "S"}),
        ),
        (
            "execute_github_compatible_webhook",
            json!({
                "repository": {"full_name": "a/b", "html_url": "https://example.org/a/b", "name": "b", "id": 1},
                "sender": {"login": "someone", "id": 1, "html_url": "https://example.org/s", "avatar_url": "https://example.org/s.png"},
                "ref": "refs/heads/main", "compare": "https://example.org/c",
                "commits": [{"id": "0123456789", "message": "one", "url": "https://example.org/1", "author": {"username": "someone", "name": "Some One"}}],
            }),
        ),
    ] {
        let kind = if operation.contains("slack") {
            "slack"
        } else {
            "github"
        };
        book.prove(operation, async |p: &mut Proof| {
            let request = nobody
                .request(
                    reqwest::Method::POST,
                    &format!("{with_token}/{kind}?wait=true"),
                )
                .header("x-github-event", "push")
                .json(&form);
            let reply = match nobody.send(request).await {
                Ok(reply) => reply,
                Err(error) => panic!("no answer: {error:#}"),
            };
            p.answers(reply);
            let is_it = |d: &Value| {
                d["webhook_id"] == id.as_str()
                    && (d["content"] == "slack says") == (kind == "slack")
                    && (kind == "slack" || d["embeds"][0].is_object())
            };
            p.event(&[bot, member], "MESSAGE_CREATE", is_it).await;
            p.nobody_else(&[stranger], "MESSAGE_CREATE", is_it).await;
            p.refuses(
                nobody.post(&format!("{one}/wrong/{kind}"), &form).await,
                401,
                50027,
            );
        })
        .await;
    }
    book.prove("delete_webhook_by_token", async |p: &mut Proof| {
        p.refuses(nobody.delete(&format!("{one}/wrong")).await, 401, 50027);
        p.answers(nobody.delete(&with_token).await);
        p.acts(nobody.get(&with_token).await.code() == 10015, "it is gone");
        p.event(&[owner], "WEBHOOKS_UPDATE", in_lobby).await;
    })
    .await;
    book.prove("delete_webhook", async |p: &mut Proof| {
        let another = bot.rest.post(&path, &json!({"name": "news"})).await.ok();
        let one = format!("/webhooks/{}", text(&another["id"]));
        p.refuses(member.rest.delete(&one).await, 403, 50013);
        p.answers(bot.rest.delete(&one).await);
        p.acts(bot.rest.get(&one).await.code() == 10015, "it is gone");
        p.event(&[owner], "WEBHOOKS_UPDATE", in_lobby).await;
    })
    .await;
}

async fn webhook_messages(world: &World, book: &mut Book) {
    let World {
        member,
        stranger,
        bot,
        guild,
        ..
    } = world;
    let path = format!("/channels/{}/webhooks", guild.lobby);
    let hook = bot.rest.post(&path, &json!({"name": "editor"})).await.body;
    let nobody = crate::rest::Rest::new(&world.origin);
    let hook = format!("/webhooks/{}/{}", text(&hook["id"]), text(&hook["token"]));
    let said = nobody
        .post(&format!("{hook}?wait=true"), &json!({"content": "first"}))
        .await;
    let id = text(&said.body["id"]);
    let one = format!("{hook}/messages/{id}");
    let other = format!("{hook}/messages/{NOTHING}");
    book.prove("get_webhook_message", async |p: &mut Proof| {
        let read = p.answers(nobody.get(&one).await);
        p.acts(read["content"] == "first", "the content reads");
        p.refuses(nobody.get(&other).await, 404, 10008);
    })
    .await;
    book.prove("update_webhook_message", async |p: &mut Proof| {
        let changed = p.answers(nobody.patch(&one, &json!({"content": "second"})).await);
        p.acts(changed["content"] == "second", "the content changes");
        let is_it = |d: &Value| d["id"] == id.as_str() && d["content"] == "second";
        p.event(&[bot, member], "MESSAGE_UPDATE", is_it).await;
        p.nobody_else(&[stranger], "MESSAGE_UPDATE", is_it).await;
        p.refuses(
            nobody.patch(&other, &json!({"content": "x"})).await,
            404,
            10008,
        );
    })
    .await;
    book.prove("delete_webhook_message", async |p: &mut Proof| {
        p.answers(nobody.delete(&one).await);
        p.event(&[bot, member], "MESSAGE_DELETE", of(&id)).await;
        p.nobody_else(&[stranger], "MESSAGE_DELETE", of(&id)).await;
        p.acts(nobody.get(&one).await.code() == 10008, "it is gone");
        p.refuses(nobody.delete(&other).await, 404, 10008);
    })
    .await;
}

async fn following(world: &World, book: &mut Book) {
    let World {
        owner,
        member,
        stranger,
        bot,
        guild,
        ..
    } = world;
    let news = json!({"name": "news", "type": 5});
    let features = json!({"features": ["COMMUNITY"], "rules_channel_id": guild.lobby,
        "public_updates_channel_id": guild.lobby, "verification_level": 1, "explicit_content_filter": 2});
    owner
        .rest
        .patch(&format!("/guilds/{}", guild.id), &features)
        .await;
    let made = bot
        .rest
        .post(&format!("/guilds/{}/channels", guild.id), &news)
        .await;
    let Some(news) = made.body["id"].as_str().map(str::to_owned) else {
        return;
    };
    let target = world.channel().await;
    book.prove("follow_channel", async |p: &mut Proof| {
        let path = format!("/channels/{news}/followers");
        let form = json!({"webhook_channel_id": target});
        let followed = p.answers(bot.rest.post(&path, &form).await);
        p.acts(followed["webhook_id"].is_string(), "a webhook was made");
        let is_it = |d: &Value| d["channel_id"] == target.as_str() && d["type"] == 12;
        p.event(&[owner, member], "MESSAGE_CREATE", is_it).await;
        p.nobody_else(&[stranger], "MESSAGE_CREATE", is_it).await;
        p.refuses(member.rest.post(&path, &form).await, 403, 50013);
    })
    .await;
    book.prove("crosspost_message", async |p: &mut Proof| {
        let message = bot.account.say(&news, "extra, extra").await;
        let path = format!("/channels/{news}/messages/{message}/crosspost");
        let posted = p.answers(bot.rest.post_empty(&path).await);
        p.acts(
            posted["flags"].as_u64().is_some_and(|flags| flags & 1 == 1),
            "it is marked",
        );
        let copied =
            |d: &Value| d["channel_id"] == target.as_str() && d["content"] == "extra, extra";
        p.event(&[owner, member], "MESSAGE_CREATE", copied).await;
        p.nobody_else(&[stranger], "MESSAGE_CREATE", copied).await;
        p.refuses(bot.rest.post_empty(&path).await, 400, 40033);
        p.refuses(stranger.rest.post_empty(&path).await, 403, 50001);
    })
    .await;
}

async fn search(world: &World, book: &mut Book) {
    let World {
        member,
        stranger,
        bot,
        guild,
        ..
    } = world;
    let word = crate::world::random_word();
    let shown = bot
        .account
        .say(&guild.lobby, &format!("look for {word} here"))
        .await;
    bot.account
        .say(&guild.secret, &format!("look for {word} there"))
        .await;
    // Until the index has caught up, which it may say by 202.
    let found = async |who: &crate::rest::Rest, path: &str| {
        for _ in 0..100 {
            let reply = who.get(path).await;
            if reply.status == 200 && reply.body["total_results"].as_u64() > Some(0) {
                return reply;
            }
            tokio::time::sleep(crate::wait::LOOK * 4).await;
        }
        who.get(path).await
    };
    for (operation, path) in [
        (
            "guild_search",
            format!("/guilds/{}/messages/search?content={word}", guild.id),
        ),
        (
            "channel_search",
            format!("/channels/{}/messages/search?content={word}", guild.lobby),
        ),
    ] {
        book.prove(operation, async |p: &mut Proof| {
            let result = p.answers(found(&member.rest, &path).await);
            p.acts(result["total_results"] == 1, "what is hidden is not found");
            p.acts(
                result["messages"][0][0]["id"] == shown.as_str(),
                "what is seen is found",
            );
            p.refuses(stranger.rest.get(&path).await, 403, 50001);
        })
        .await;
    }
}

async fn read_states(world: &World, book: &mut Book) {
    let World {
        member,
        stranger,
        bot,
        guild,
        ..
    } = world;
    let lobby = &guild.lobby;
    let message = bot.account.say(lobby, &format!("<@{}>", member.id)).await;
    let is_it =
        |d: &Value| d["channel_id"] == lobby.as_str() && d["message_id"] == message.as_str();
    book.prove("message_ack", async |p: &mut Proof| {
        let path = format!("/channels/{lobby}/messages/{message}/ack");
        let answer = p.answers(member.rest.post(&path, &json!({"token": null})).await);
        p.acts(answer["token"].is_null(), "there is no token");
        p.event(&[member], "MESSAGE_ACK", is_it).await;
        p.nobody_else(&[bot, stranger], "MESSAGE_ACK", is_it).await;
        p.refuses(
            stranger.rest.post(&path, &json!({"token": null})).await,
            403,
            50001,
        );
    })
    .await;
    book.prove("ack_bulk", async |p: &mut Proof| {
        let form = json!({"read_states": [{"channel_id": lobby, "message_id": message, "read_state_type": 0}]});
        p.answers(member.rest.post("/read-states/ack-bulk", &form).await);
        p.event(&[member], "MESSAGE_ACK", is_it).await;
        p.nobody_else(&[bot, stranger], "MESSAGE_ACK", is_it).await;
        let bad = json!({"read_states": [{"channel_id": "x"}]});
        p.faults(member.rest.post("/read-states/ack-bulk", &bad).await, "read_states.0.channel_id", "NUMBER_TYPE_COERCE");
    })
    .await;
    book.prove("message_ack_delete", async |p: &mut Proof| {
        let path = format!("/channels/{lobby}/messages/ack");
        p.answers(member.rest.delete(&path).await);
        p.acts(true, "the state is dropped");
        p.refuses_no_more();
    })
    .await;
    book.prove("pins_ack", async |p: &mut Proof| {
        let path = format!("/channels/{lobby}/pins/ack");
        p.answers(member.rest.post_empty(&path).await);
        let is_it = |d: &Value| d["channel_id"] == lobby.as_str();
        p.event(&[member], "CHANNEL_PINS_ACK", is_it).await;
        p.nobody_else(&[bot], "CHANNEL_PINS_ACK", is_it).await;
        p.refuses(stranger.rest.post_empty(&path).await, 403, 50001);
    })
    .await;
    book.prove("guild_ack", async |p: &mut Proof| {
        let path = format!("/guilds/{}/ack", guild.id);
        bot.account.say(lobby, "unread").await;
        p.answers(member.rest.post(&path, &json!({})).await);
        p.event(&[member], "MESSAGE_ACK", |d| {
            d["channel_id"] == lobby.as_str()
        })
        .await;
        p.refuses(stranger.rest.post(&path, &json!({})).await, 403, 50001);
    })
    .await;
    book.prove("user_mentions", async |p: &mut Proof| {
        let list = p.answers(member.rest.get("/users/@me/mentions").await);
        let mut list = list.as_array().into_iter().flatten();
        p.acts(
            list.any(|mention| mention["id"] == message.as_str()),
            "it is listed",
        );
        p.faults(
            member.rest.get("/users/@me/mentions?limit=1000").await,
            "limit",
            "NUMBER_TYPE_MAX",
        );
    })
    .await;
    book.prove("user_mention_delete", async |p: &mut Proof| {
        p.answers(
            member
                .rest
                .delete(&format!("/users/@me/mentions/{message}"))
                .await,
        );
        p.event(&[member], "RECENT_MENTION_DELETE", at(&message))
            .await;
        let list = member.rest.get("/users/@me/mentions").await.body;
        let mut list = list.as_array().into_iter().flatten();
        p.acts(
            list.all(|mention| mention["id"] != message.as_str()),
            "it is not listed",
        );
        p.refuses_no_more();
    })
    .await;
}
