//! Messages, reactions, pins, polls, webhooks, search, read states.

mod reactions;
mod reading;
mod webhooks;

use serde_json::{Value, json};

use super::{Book, NOTHING, Proof, World};
use crate::world::text;

/// An id of a body; ids rise with time.
fn number(id: &Value) -> Option<u64> {
    id.as_str()?.parse().ok()
}

pub(super) async fn prove(world: &World, book: &mut Book) {
    messages(world, book).await;
    deletions(world, book).await;
    reactions::prove(world, book).await;
    pins(world, book).await;
    polls(world, book).await;
    webhooks::prove(world, book).await;
    reading::prove(world, book).await;
}

fn of(id: &str) -> impl Fn(&Value) -> bool {
    move |d| d["id"] == id
}

fn at(message: &str) -> impl Fn(&Value) -> bool {
    move |d| d["message_id"] == message
}

async fn messages(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
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
    let [_, member, stranger, bot] = world.people();
    let guild = &world.guild;
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
        p.refuses(
            bot.rest.post(&bulk, &json!({"messages": [one]})).await,
            400,
            50016,
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

async fn pins(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
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
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
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
