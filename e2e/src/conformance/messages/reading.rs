//! Search and read states.

use serde_json::{Value, json};

use super::{Book, Proof, World, at};
use crate::world::{each, random_word};

pub(super) async fn prove(world: &World, book: &mut Book) {
    search(world, book).await;
    read_states(world, book).await;
}

async fn search(world: &World, book: &mut Book) {
    let [_, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let word = random_word();
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
    let [_, member, stranger, bot] = world.people();
    let guild = &world.guild;
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
        p.acts(
            each(&list).any(|mention| mention["id"] == message.as_str()),
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
        p.acts(
            each(&list).all(|mention| mention["id"] != message.as_str()),
            "it is not listed",
        );
        p.refuses_no_more();
    })
    .await;
}
