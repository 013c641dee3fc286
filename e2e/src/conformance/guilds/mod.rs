//! Guilds, invites, templates, widget, welcome screen, onboarding, events, stages, voice.

mod invites;
mod scheduled_events;
mod voice;

use serde_json::{Value, json};

use super::{Book, NOTHING, Proof, World};
use crate::world::{each, random_word, text};

pub(super) async fn prove(world: &World, book: &mut Book) {
    guilds(world, book).await;
    invites::prove(world, book).await;
    widget(world, book).await;
    community(world, book).await;
    scheduled_events::prove(world, book).await;
    voice::prove(world, book).await;
    integrations(world, book).await;
    endings(world, book).await;
}

async fn guilds(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let path = format!("/guilds/{}", guild.id);
    book.prove("guild_create", async |p: &mut Proof| {
        let form = json!({
            "name": "made", "roles": [{"id": 0, "name": "@everyone"}, {"id": 1, "name": "staff"}],
            "channels": [{"id": 5, "name": "cat", "type": 4}, {"id": 6, "name": "talk", "type": 0, "parent_id": 5}],
            "system_channel_id": 6,
        });
        let made = p.answers(owner.rest.post("/guilds", &form).await);
        let id = text(&made["id"]);
        let is_it = |d: &Value| d["id"] == id.as_str();
        p.event(&[owner], "GUILD_CREATE", is_it).await;
        p.nobody_else(&[member, stranger, bot], "GUILD_CREATE", is_it).await;
        let channels = owner.rest.get(&format!("/guilds/{id}/channels")).await.body;
        let talk = each(&channels).find(|channel| channel["name"] == "talk");
        p.acts(talk.is_some_and(|talk| talk["parent_id"].is_string()), "placeholders were resolved");
        p.refuses(bot.rest.post("/guilds", &json!({"name": "bots"})).await, 403, 20001);
        p.faults(owner.rest.post("/guilds", &json!({"name": "x"})).await, "name", "BASE_TYPE_BAD_LENGTH");
    })
    .await;
    book.prove("get_guild", async |p: &mut Proof| {
        let read = p.answers(member.rest.get(&format!("{path}?with_counts=true")).await);
        let count = read["approximate_member_count"].as_u64();
        p.acts(count >= Some(3), "members are counted");
        p.refuses(stranger.rest.get(&path).await, 403, 50001);
        p.refuses(
            member.rest.get(&format!("/guilds/{NOTHING}")).await,
            404,
            10004,
        );
    })
    .await;
    book.prove("update_guild", async |p: &mut Proof| {
        let form = json!({"name": "renamed", "afk_timeout": 300, "system_channel_flags": 1});
        let changed = p.answers(bot.rest.patch(&path, &form).await);
        p.acts(changed["name"] == "renamed", "the name changes");
        let is_it = |d: &Value| d["id"] == guild.id.as_str() && d["name"] == "renamed";
        p.event(&[owner, member], "GUILD_UPDATE", is_it).await;
        p.nobody_else(&[stranger], "GUILD_UPDATE", is_it).await;
        p.refuses(member.rest.patch(&path, &form).await, 403, 50013);
        p.faults(
            bot.rest.patch(&path, &json!({"name": "x"})).await,
            "name",
            "BASE_TYPE_BAD_LENGTH",
        );
    })
    .await;
    book.prove("get_guild_preview", async |p: &mut Proof| {
        let preview = p.answers(member.rest.get(&format!("{path}/preview")).await);
        p.acts(preview["name"] == "renamed", "the name reads");
        p.refuses(
            stranger.rest.get(&format!("{path}/preview")).await,
            404,
            10004,
        );
    })
    .await;
    book.prove("list_my_guilds", async |p: &mut Proof| {
        let list = p.answers(member.rest.get("/users/@me/guilds").await);
        p.acts(list.to_string().contains(&guild.id), "the guild is listed");
        p.faults(
            member.rest.get("/users/@me/guilds?limit=201").await,
            "limit",
            "NUMBER_TYPE_MAX",
        );
    })
    .await;
    for (operation, regions) in [
        ("list_guild_voice_regions", format!("{path}/regions")),
        ("list_voice_regions", "/voice/regions".to_owned()),
    ] {
        book.prove(operation, async |p: &mut Proof| {
            let list = p.answers(member.rest.get(&regions).await);
            p.acts(
                list.as_array().is_some_and(|list| !list.is_empty()),
                "there is a region",
            );
            p.refuses_no_more();
        })
        .await;
    }
    book.prove("guild_mfa_level", async |p: &mut Proof| {
        p.answers(
            owner
                .rest
                .post(&format!("{path}/mfa"), &json!({"level": 0}))
                .await,
        );
        p.acts(
            owner.rest.get(&path).await.body["mfa_level"] == 0,
            "the level reads",
        );
        p.refuses(
            member
                .rest
                .post(&format!("{path}/mfa"), &json!({"level": 0}))
                .await,
            403,
            50013,
        );
    })
    .await;
    book.prove("guild_vanity_update", async |p: &mut Proof| {
        let code = random_word();
        p.answers(
            owner
                .rest
                .patch(&format!("{path}/vanity-url"), &json!({"code": code}))
                .await,
        );
        let read = stranger.rest.get(&format!("/invites/{code}")).await.body;
        p.acts(
            read["guild"]["id"] == guild.id.as_str(),
            "the code leads here",
        );
        let is_it = |d: &Value| d["vanity_url_code"] == code.as_str();
        p.event(&[bot, member], "GUILD_UPDATE", is_it).await;
        p.refuses(
            member
                .rest
                .patch(&format!("{path}/vanity-url"), &json!({"code": "mine"}))
                .await,
            403,
            50013,
        );
        p.refuses(
            owner
                .rest
                .patch(&format!("{path}/vanity-url"), &json!({"code": "a b"}))
                .await,
            400,
            50020,
        );
    })
    .await;
    book.prove("get_guild_vanity_url", async |p: &mut Proof| {
        let vanity = p.answers(bot.rest.get(&format!("{path}/vanity-url")).await);
        p.acts(vanity["code"].is_string(), "the code reads");
        p.refuses(
            member.rest.get(&format!("{path}/vanity-url")).await,
            403,
            50013,
        );
    })
    .await;
}

async fn widget(world: &World, book: &mut Book) {
    let [owner, member, _, bot] = world.people();
    let guild = &world.guild;
    let path = format!("/guilds/{}/widget", guild.id);
    let nobody = crate::rest::Rest::new(&world.origin);
    book.prove("get_guild_widget", async |p: &mut Proof| {
        p.refuses(nobody.get(&format!("{path}.json")).await, 403, 50004);
    })
    .await;
    book.prove("update_guild_widget_settings", async |p: &mut Proof| {
        let form = json!({"enabled": true, "channel_id": guild.lobby});
        let set = p.answers(bot.rest.patch(&path, &form).await);
        p.acts(set["enabled"] == true, "it is on");
        p.event(&[owner, member], "GUILD_UPDATE", |d| {
            d["widget_enabled"] == true
        })
        .await;
        p.refuses(member.rest.patch(&path, &form).await, 403, 50013);
    })
    .await;
    book.prove("get_guild_widget_settings", async |p: &mut Proof| {
        let read = p.answers(bot.rest.get(&path).await);
        p.acts(
            read["channel_id"] == guild.lobby.as_str(),
            "the channel reads",
        );
        p.refuses(member.rest.get(&path).await, 403, 50013);
    })
    .await;
    book.prove("get_guild_widget", async |p: &mut Proof| {
        let widget = p.answers(nobody.get(&format!("{path}.json")).await);
        p.acts(widget["id"] == guild.id.as_str(), "it is this guild's");
    })
    .await;
    book.prove("get_guild_widget_png", async |p: &mut Proof| {
        let reply = nobody.get(&format!("{path}.png")).await;
        let kind = reply
            .headers
            .get("content-type")
            .and_then(|kind| kind.to_str().ok());
        p.acts(kind == Some("image/png"), "it is an image");
        p.answers(reply);
        p.faults(
            nobody.get(&format!("{path}.png?style=nonsense")).await,
            "style",
            "BASE_TYPE_CHOICES",
        );
    })
    .await;
}

async fn community(world: &World, book: &mut Book) {
    let [_, member, stranger, bot] = world.people();
    let guild = &world.guild;
    world.make_community().await;
    let welcome = format!("/guilds/{}/welcome-screen", guild.id);
    book.prove("update_guild_welcome_screen", async |p: &mut Proof| {
        let form = json!({"enabled": true, "description": "hello",
            "welcome_channels": [{"channel_id": guild.lobby, "description": "talk"}]});
        let set = p.answers(bot.rest.patch(&welcome, &form).await);
        p.acts(set["description"] == "hello", "the text changes");
        p.refuses(member.rest.patch(&welcome, &form).await, 403, 50013);
        let many = json!({"description": "x".repeat(141)});
        p.faults(
            bot.rest.patch(&welcome, &many).await,
            "description",
            "BASE_TYPE_MAX_LENGTH",
        );
    })
    .await;
    book.prove("get_guild_welcome_screen", async |p: &mut Proof| {
        let read = p.answers(member.rest.get(&welcome).await);
        p.acts(
            read["welcome_channels"][0]["description"] == "talk",
            "the channel reads",
        );
        let none = world.another_guild().await;
        let none = format!("/guilds/{}/welcome-screen", none.id);
        p.refuses(member.rest.get(&none).await, 404, 10069);
    })
    .await;
    let onboarding = format!("/guilds/{}/onboarding", guild.id);
    book.prove("put_guilds_onboarding", async |p: &mut Proof| {
        let form = json!({"enabled": false, "mode": 0, "default_channel_ids": [guild.lobby], "prompts": [{
            "id": 1, "type": 0, "title": "who?", "single_select": true, "required": false,
            "in_onboarding": false, "options": [{"title": "me", "channel_ids": [guild.lobby], "role_ids": []}],
        }]});
        let set = p.answers(bot.rest.put(&onboarding, &form).await);
        p.acts(set["prompts"][0]["title"] == "who?", "the prompt is there");
        p.refuses(member.rest.put(&onboarding, &form).await, 403, 50013);
    })
    .await;
    book.prove("get_guilds_onboarding", async |p: &mut Proof| {
        let read = p.answers(member.rest.get(&onboarding).await);
        p.acts(
            read["prompts"][0]["options"][0]["title"] == "me",
            "the option reads",
        );
        p.refuses(stranger.rest.get(&onboarding).await, 403, 50001);
    })
    .await;
}

async fn integrations(world: &World, book: &mut Book) {
    let [owner, member, stranger, ..] = world.people();
    let place = world.another_guild().await;
    let path = format!("/guilds/{}/integrations", place.id);
    let mut id = Value::Null;
    book.prove("list_guild_integrations", async |p: &mut Proof| {
        let list = p.answers(owner.rest.get(&path).await);
        id = list[0]["id"].clone();
        p.acts(
            list[0]["application"]["id"] == world.bot.id.as_str(),
            "the bot is listed",
        );
        p.refuses(member.rest.get(&path).await, 403, 50013);
        p.refuses(stranger.rest.get(&path).await, 403, 50001);
    })
    .await;
    book.prove("delete_guild_integration", async |p: &mut Proof| {
        let one = format!("{path}/{}", text(&id));
        p.refuses(member.rest.delete(&one).await, 403, 50013);
        p.answers(owner.rest.delete(&one).await);
        let of_place = |d: &Value| d["guild_id"] == place.id.as_str();
        p.event(&[owner, member], "INTEGRATION_DELETE", of_place)
            .await;
        p.nobody_else(&[stranger], "INTEGRATION_DELETE", of_place)
            .await;
        p.acts(owner.rest.get(&path).await.body == json!([]), "it is gone");
    })
    .await;
}

async fn endings(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    for (operation, suffix) in [("guild_delete", ""), ("guild_delete_legacy", "/delete")] {
        let place = world.another_guild().await;
        book.prove(operation, async |p: &mut Proof| {
            let path = format!("/guilds/{}{suffix}", place.id);
            let call = async |who: &crate::rest::Rest| match suffix {
                "" => who.delete(&path).await,
                _ => who.post(&path, &json!({})).await,
            };
            p.refuses(call(&member.rest).await, 403, 50013);
            p.answers(call(&owner.rest).await);
            let is_it = |d: &Value| d["id"] == place.id.as_str() && d["unavailable"].is_null();
            p.event(&[owner, member, bot], "GUILD_DELETE", is_it).await;
            p.nobody_else(&[stranger], "GUILD_DELETE", is_it).await;
            let gone = owner.rest.get(&format!("/guilds/{}", place.id)).await;
            p.acts(gone.code() == 10004, "it is gone");
        })
        .await;
    }
}
