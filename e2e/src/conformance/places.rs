//! Channels, threads, DMs.

use serde_json::{Value, json};

use super::{Book, Proof, World};
use crate::world::permission;

pub(super) async fn prove(world: &World, book: &mut Book) {
    channels(world, book).await;
}

async fn channels(world: &World, book: &mut Book) {
    let (owner, member, stranger, bot) = (&world.owner, &world.member, &world.stranger, &world.bot);
    let channels = format!("/guilds/{}/channels", world.guild.id);
    let mut id = String::new();
    book.prove("create_guild_channel", async |p: &mut Proof| {
        let form = json!({"name": "planning", "type": 0, "topic": "next week"});
        let made = p.answers(bot.rest.post(&channels, &form).await);
        id = made["id"].as_str().unwrap_or_default().to_owned();
        let read = owner.rest.get(&format!("/channels/{id}")).await.body;
        p.acts(read["topic"] == "next week", "the channel reads as made");
        let is_it = |d: &Value| d["id"] == id.as_str();
        p.event(&[bot, owner, member], "CHANNEL_CREATE", is_it)
            .await;
        p.nobody_else(&[stranger], "CHANNEL_CREATE", is_it).await;
        p.refuses(member.rest.post(&channels, &form).await, 403, 50013);
        p.refuses(stranger.rest.post(&channels, &form).await, 403, 50001);
        let long = json!({"name": "x".repeat(101)});
        p.faults(
            bot.rest.post(&channels, &long).await,
            "name",
            "BASE_TYPE_BAD_LENGTH",
        );
    })
    .await;
    let path = format!("/channels/{id}");
    let secret = format!("/channels/{}", world.guild.secret);
    book.prove("get_channel", async |p: &mut Proof| {
        let read = p.answers(member.rest.get(&path).await);
        p.acts(read["name"] == "planning", "the name reads");
        p.refuses(member.rest.get(&secret).await, 403, 50001);
        p.refuses(stranger.rest.get(&path).await, 403, 50001);
        p.refuses(member.rest.get("/channels/1").await, 404, 10003);
    })
    .await;
    book.prove("list_guild_channels", async |p: &mut Proof| {
        let listed = p.answers(member.rest.get(&channels).await);
        let has = |id: &str| {
            let mut listed = listed.as_array().into_iter().flatten();
            listed.any(|channel| channel["id"] == id)
        };
        p.acts(has(&id), "a visible channel is listed");
        p.acts(!has(&world.guild.secret), "a hidden one is not");
        p.refuses(stranger.rest.get(&channels).await, 403, 50001);
        p.refuses(member.rest.get("/guilds/1/channels").await, 404, 10004);
    })
    .await;
    book.prove("set_channel_permission_overwrite", async |p: &mut Proof| {
        let path = format!("{path}/permissions/{}", world.guild.id);
        let deny = permission::SEND_MESSAGES.to_string();
        let form = json!({"type": 0, "allow": "0", "deny": deny});
        p.answers(bot.rest.put(&path, &form).await);
        let say = json!({"content": "x"});
        let refused = member
            .rest
            .post(&format!("/channels/{id}/messages"), &say)
            .await;
        p.acts(refused.code() == 50013, "the member may no longer write");
        let is_it = |d: &Value| {
            let overwrites = d["permission_overwrites"].as_array();
            d["id"] == id.as_str() && overwrites.is_some_and(|list| list.len() == 1)
        };
        p.event(&[bot, member], "CHANNEL_UPDATE", is_it).await;
        p.nobody_else(&[stranger], "CHANNEL_UPDATE", is_it).await;
        p.refuses(member.rest.put(&path, &form).await, 403, 50013);
    })
    .await;
}
