//! Guilds, invites, templates, widget, welcome screen, onboarding, events, stages, voice.

use std::{sync::LazyLock, time::Duration};

use guildhall_shared::Timestamp;
use serde_json::{Value, json};

use super::{Book, Proof, World};
use crate::world::{random_word, text};

/// Nobody's id.
const NOTHING: &str = "100000000000000001";

pub(super) async fn prove(world: &World, book: &mut Book) {
    guilds(world, book).await;
    invites(world, book).await;
    templates(world, book).await;
    widget(world, book).await;
    community(world, book).await;
    scheduled_events(world, book).await;
    event_exceptions(world, book).await;
    stages(world, book).await;
    voice(world, book).await;
    integrations(world, book).await;
    endings(world, book).await;
}

async fn guilds(world: &World, book: &mut Book) {
    let World {
        owner,
        member,
        stranger,
        bot,
        guild,
        ..
    } = world;
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
        let talk = channels.as_array().into_iter().flatten().find(|channel| channel["name"] == "talk");
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

async fn invites(world: &World, book: &mut Book) {
    let World {
        owner,
        member,
        stranger,
        bot,
        guild,
        ..
    } = world;
    let path = format!("/channels/{}/invites", guild.lobby);
    let hidden = format!("/channels/{}/invites", guild.secret);
    let mut code = String::new();
    book.prove("create_channel_invite", async |p: &mut Proof| {
        let form = json!({"max_age": 3600, "max_uses": 2, "unique": true});
        let invite = p.answers(bot.rest.post(&path, &form).await);
        code = text(&invite["code"]);
        let is_it = |d: &Value| d["code"] == code.as_str();
        p.event(&[owner, bot], "INVITE_CREATE", is_it).await;
        p.nobody_else(&[member, stranger], "INVITE_CREATE", is_it)
            .await;
        p.refuses(member.rest.post(&hidden, &form).await, 403, 50001);
        p.faults(
            bot.rest.post(&path, &json!({"max_uses": 101})).await,
            "max_uses",
            "NUMBER_TYPE_MAX",
        );
    })
    .await;
    book.prove("invite_resolve", async |p: &mut Proof| {
        let read = p.answers(
            stranger
                .rest
                .get(&format!("/invites/{code}?with_counts=true"))
                .await,
        );
        p.acts(
            read["guild"]["id"] == guild.id.as_str(),
            "the guild is told",
        );
        p.refuses(
            stranger.rest.get("/invites/nothing-at-all").await,
            404,
            10006,
        );
    })
    .await;
    book.prove("list_channel_invites", async |p: &mut Proof| {
        let list = p.answers(bot.rest.get(&path).await);
        p.acts(list.to_string().contains(&code), "it is listed");
        p.refuses(member.rest.get(&path).await, 403, 50013);
    })
    .await;
    book.prove("list_guild_invites", async |p: &mut Proof| {
        let all = format!("/guilds/{}/invites", guild.id);
        let list = p.answers(bot.rest.get(&all).await);
        p.acts(list.to_string().contains(&code), "it is listed");
        p.refuses(member.rest.get(&all).await, 403, 50013);
    })
    .await;
    book.prove("invite_accept", async |p: &mut Proof| {
        let guest = world.newcomer().await;
        p.answers(
            guest
                .rest
                .post(&format!("/invites/{code}"), &json!({}))
                .await,
        );
        let is_it = |d: &Value| d["user"]["id"] == guest.id.as_str();
        p.event(&[bot], "GUILD_MEMBER_ADD", is_it).await;
        p.nobody_else(&[stranger], "GUILD_MEMBER_ADD", is_it).await;
        let list = bot.rest.get(&path).await.body;
        let invite = list
            .as_array()
            .into_iter()
            .flatten()
            .find(|invite| invite["code"] == code.as_str());
        p.acts(
            invite.is_some_and(|invite| invite["uses"] == 1),
            "the use is counted",
        );
        p.refuses(
            guest.rest.post("/invites/nothing-at-all", &json!({})).await,
            404,
            10006,
        );
        guest
            .rest
            .delete(&format!("/users/@me/guilds/{}", guild.id))
            .await
            .ok();
    })
    .await;
    book.prove("update_invite_target_users", async |p: &mut Proof| {
        let targets = format!("/invites/{code}/target-users");
        let csv = format!("user_id\n{}\n", stranger.id);
        let put = async |who: &crate::rest::Rest| {
            let part = reqwest::multipart::Part::text(csv.clone()).file_name("users.csv");
            let form = reqwest::multipart::Form::new().part("target_users_file", part);
            let request = who.request(reqwest::Method::PUT, &targets).multipart(form);
            match who.send(request).await {
                Ok(reply) => reply,
                Err(error) => panic!("no answer: {error:#}"),
            }
        };
        p.answers(put(&bot.rest).await);
        p.acts(true, "see get_invite_target_users");
        p.refuses(put(&member.rest).await, 403, 50013);
    })
    .await;
    for operation in [
        "get_invite_target_users",
        "get_invite_target_users_job_status",
    ] {
        book.prove(operation, async |p: &mut Proof| {
            let mut targets = format!("/invites/{code}/target-users");
            if operation.ends_with("status") {
                targets.push_str("/job-status");
            }
            let reply = bot.rest.get(&targets).await;
            p.acts(reply.status == 200, "it is there");
            p.answers(reply);
            p.refuses(member.rest.get(&targets).await, 403, 50013);
        })
        .await;
    }
    book.prove("invite_revoke", async |p: &mut Proof| {
        let one = format!("/invites/{code}");
        p.refuses(member.rest.delete(&one).await, 403, 50013);
        p.answers(bot.rest.delete(&one).await);
        let is_it = |d: &Value| d["code"] == code.as_str();
        p.event(&[owner, bot], "INVITE_DELETE", is_it).await;
        p.nobody_else(&[member, stranger], "INVITE_DELETE", is_it)
            .await;
        p.acts(stranger.rest.get(&one).await.code() == 10006, "it is gone");
    })
    .await;
}

async fn templates(world: &World, book: &mut Book) {
    let World {
        owner,
        member,
        bot,
        stranger,
        guild,
        ..
    } = world;
    let path = format!("/guilds/{}/templates", guild.id);
    let mut code = String::new();
    book.prove("create_guild_template", async |p: &mut Proof| {
        let made = p.answers(owner.rest.post(&path, &json!({"name": "ours"})).await);
        code = text(&made["code"]);
        p.acts(made["usage_count"] == 0, "it was not used");
        p.refuses(
            member.rest.post(&path, &json!({"name": "ours"})).await,
            403,
            50013,
        );
        p.faults(
            owner.rest.post(&path, &json!({})).await,
            "name",
            "BASE_TYPE_REQUIRED",
        );
    })
    .await;
    let one = format!("{path}/{code}");
    book.prove("list_guild_templates", async |p: &mut Proof| {
        let list = p.answers(bot.rest.get(&path).await);
        p.acts(list[0]["code"] == code.as_str(), "it is listed");
        p.refuses(member.rest.get(&path).await, 403, 50013);
    })
    .await;
    book.prove("get_guild_template", async |p: &mut Proof| {
        let read = p.answers(
            stranger
                .rest
                .get(&format!("/guilds/templates/{code}"))
                .await,
        );
        p.acts(read["name"] == "ours", "the name reads");
        p.refuses(
            stranger.rest.get("/guilds/templates/nothing").await,
            404,
            10057,
        );
    })
    .await;
    book.prove("update_guild_template", async |p: &mut Proof| {
        let changed = p.answers(owner.rest.patch(&one, &json!({"name": "theirs"})).await);
        p.acts(changed["name"] == "theirs", "the name changes");
        p.refuses(
            member.rest.patch(&one, &json!({"name": "x"})).await,
            403,
            50013,
        );
    })
    .await;
    book.prove("sync_guild_template", async |p: &mut Proof| {
        world.channel().await;
        let synced = p.answers(owner.rest.put(&one, &json!({})).await);
        p.acts(synced["is_dirty"] != true, "it is clean");
        p.refuses(member.rest.put(&one, &json!({})).await, 403, 50013);
    })
    .await;
    book.prove("guild_create_from_template", async |p: &mut Proof| {
        let create = format!("/guilds/templates/{code}");
        let made = p.answers(owner.rest.post(&create, &json!({"name": "copy"})).await);
        let id = text(&made["id"]);
        p.event(&[owner], "GUILD_CREATE", |d| d["id"] == id.as_str())
            .await;
        p.acts(made["name"] == "copy", "the name is the request's");
        p.refuses(
            owner
                .rest
                .post("/guilds/templates/nothing", &json!({"name": "copy"}))
                .await,
            404,
            10057,
        );
        owner.rest.delete(&format!("/guilds/{id}")).await.ok();
    })
    .await;
    book.prove("delete_guild_template", async |p: &mut Proof| {
        p.refuses(member.rest.delete(&one).await, 403, 50013);
        p.answers(owner.rest.delete(&one).await);
        let gone = stranger
            .rest
            .get(&format!("/guilds/templates/{code}"))
            .await;
        p.acts(gone.code() == 10057, "it is gone");
        p.refuses(owner.rest.delete(&one).await, 404, 10057);
    })
    .await;
}

async fn widget(world: &World, book: &mut Book) {
    let World {
        owner,
        member,
        bot,
        guild,
        ..
    } = world;
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
    let World {
        owner,
        member,
        bot,
        guild,
        ..
    } = world;
    let community = json!({"features": ["COMMUNITY"], "rules_channel_id": guild.lobby,
        "public_updates_channel_id": guild.lobby, "verification_level": 1, "explicit_content_filter": 2});
    owner
        .rest
        .patch(&format!("/guilds/{}", guild.id), &community)
        .await;
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
        p.refuses(world.stranger.rest.get(&onboarding).await, 403, 50001);
    })
    .await;
}

async fn scheduled_events(world: &World, book: &mut Book) {
    let World {
        owner,
        member,
        stranger,
        bot,
        guild,
        ..
    } = world;
    let path = format!("/guilds/{}/scheduled-events", guild.id);
    let form = json!({
        "name": "fair", "privacy_level": 2, "entity_type": 3,
        "entity_metadata": {"location": "the square"},
        "scheduled_start_time": in_days(2), "scheduled_end_time": in_days(3),
    });
    let mut id = String::new();
    book.prove("create_guild_scheduled_event", async |p: &mut Proof| {
        let made = p.answers(bot.rest.post(&path, &form).await);
        id = text(&made["id"]);
        let is_it = |d: &Value| d["id"] == id.as_str();
        p.event(&[owner, member], "GUILD_SCHEDULED_EVENT_CREATE", is_it)
            .await;
        p.nobody_else(&[stranger], "GUILD_SCHEDULED_EVENT_CREATE", is_it)
            .await;
        p.acts(made["status"] == 1, "it is scheduled");
        p.refuses(world.stranger.rest.post(&path, &form).await, 403, 50001);
        let mut late = form.clone();
        late["name"] = json!("x".repeat(101));
        p.faults(
            bot.rest.post(&path, &late).await,
            "name",
            "BASE_TYPE_BAD_LENGTH",
        );
    })
    .await;
    let one = format!("{path}/{id}");
    book.prove("get_guild_scheduled_event", async |p: &mut Proof| {
        let read = p.answers(
            member
                .rest
                .get(&format!("{one}?with_user_count=true"))
                .await,
        );
        p.acts(read["name"] == "fair", "the name reads");
        p.refuses(
            member.rest.get(&format!("{path}/{NOTHING}")).await,
            404,
            10070,
        );
        p.refuses(stranger.rest.get(&one).await, 403, 50001);
    })
    .await;
    book.prove("list_guild_scheduled_events", async |p: &mut Proof| {
        let list = p.answers(member.rest.get(&path).await);
        p.acts(list.to_string().contains(&id), "it is listed");
        p.refuses(stranger.rest.get(&path).await, 403, 50001);
    })
    .await;
    book.prove("update_guild_scheduled_event", async |p: &mut Proof| {
        let changed = p.answers(bot.rest.patch(&one, &json!({"name": "market"})).await);
        p.acts(changed["name"] == "market", "the name changes");
        let is_it = |d: &Value| d["id"] == id.as_str() && d["name"] == "market";
        p.event(&[owner, member], "GUILD_SCHEDULED_EVENT_UPDATE", is_it)
            .await;
        p.nobody_else(&[stranger], "GUILD_SCHEDULED_EVENT_UPDATE", is_it)
            .await;
        p.refuses(
            member.rest.patch(&one, &json!({"name": "x"})).await,
            403,
            50013,
        );
    })
    .await;
    for (operation, users) in [
        ("list_guild_scheduled_event_users", format!("{one}/users")),
        (
            "count_guild_scheduled_event_users",
            format!("{one}/users/counts"),
        ),
    ] {
        book.prove(operation, async |p: &mut Proof| {
            let reply = member.rest.get(&users).await;
            p.acts(reply.status == 200, "nobody is interested yet");
            p.answers(reply);
            p.refuses(stranger.rest.get(&users).await, 403, 50001);
        })
        .await;
    }
    book.prove("delete_guild_scheduled_event", async |p: &mut Proof| {
        p.refuses(member.rest.delete(&one).await, 403, 50013);
        p.answers(bot.rest.delete(&one).await);
        let is_it = |d: &Value| d["id"] == id.as_str();
        p.event(&[owner, member], "GUILD_SCHEDULED_EVENT_DELETE", is_it)
            .await;
        p.nobody_else(&[stranger], "GUILD_SCHEDULED_EVENT_DELETE", is_it)
            .await;
        p.acts(member.rest.get(&one).await.code() == 10070, "it is gone");
    })
    .await;
}

/// Counted from one moment, so that equal days are equal times.
fn in_days(days: u64) -> Value {
    static NOW: LazyLock<Timestamp> = LazyLock::new(Timestamp::now);
    json!(Timestamp(NOW.0 + Duration::from_secs(days * 86_400)))
}

async fn event_exceptions(world: &World, book: &mut Book) {
    let World {
        owner,
        member,
        stranger,
        bot,
        guild,
        ..
    } = world;
    let path = format!("/guilds/{}/scheduled-events", guild.id);
    let start = in_days(2);
    let form = json!({
        "name": "weekly", "privacy_level": 2, "entity_type": 3, "entity_metadata": {"location": "here"},
        "scheduled_start_time": start, "scheduled_end_time": in_days(3),
        "recurrence_rule": {"start": start, "frequency": 3, "interval": 1},
    });
    let Some(id) = bot.rest.post(&path, &form).await.body["id"]
        .as_str()
        .map(str::to_owned)
    else {
        return;
    };
    let exceptions = format!("{path}/{id}/exceptions");
    let mut exception = String::new();
    book.prove(
        "create_guild_scheduled_event_exception",
        async |p: &mut Proof| {
            let form = json!({"original_scheduled_start_time": in_days(3), "is_canceled": true});
            let made = p.answers(bot.rest.post(&exceptions, &form).await);
            exception = text(&made["event_exception_id"]);
            p.acts(made["is_canceled"] == true, "it is cancelled");
            let is_it = |d: &Value| d["event_exception_id"] == exception.as_str();
            let name = "GUILD_SCHEDULED_EVENT_EXCEPTION_CREATE";
            p.event(&[owner, member], name, is_it).await;
            p.nobody_else(&[bot, stranger], name, is_it).await;
            p.refuses(member.rest.post(&exceptions, &form).await, 403, 50013);
        },
    )
    .await;
    let one = format!("{exceptions}/{exception}");
    book.prove(
        "update_guild_scheduled_event_exception",
        async |p: &mut Proof| {
            let changed = p.answers(bot.rest.patch(&one, &json!({"is_canceled": false})).await);
            p.acts(
                changed["is_canceled"] == false,
                "it is not cancelled any more",
            );
            let is_it = |d: &Value| d["event_exception_id"] == exception.as_str();
            let name = "GUILD_SCHEDULED_EVENT_EXCEPTION_UPDATE";
            p.event(&[owner, member], name, is_it).await;
            p.nobody_else(&[bot, stranger], name, is_it).await;
            p.refuses(
                member.rest.patch(&one, &json!({"is_canceled": true})).await,
                403,
                50013,
            );
        },
    )
    .await;
    book.prove(
        "list_guild_scheduled_event_exception_users",
        async |p: &mut Proof| {
            let users = format!("{path}/{id}/{exception}/users");
            let reply = member.rest.get(&users).await;
            p.acts(reply.body == json!([]), "nobody is interested yet");
            p.answers(reply);
            p.refuses(stranger.rest.get(&users).await, 403, 50001);
        },
    )
    .await;
    book.prove(
        "delete_guild_scheduled_event_exception",
        async |p: &mut Proof| {
            p.refuses(member.rest.delete(&one).await, 403, 50013);
            p.answers(bot.rest.delete(&one).await);
            let is_it = |d: &Value| d["event_exception_id"] == exception.as_str();
            let name = "GUILD_SCHEDULED_EVENT_EXCEPTION_DELETE";
            p.event(&[owner, member], name, is_it).await;
            p.nobody_else(&[bot, stranger], name, is_it).await;
        },
    )
    .await;
}

async fn stages(world: &World, book: &mut Book) {
    let World {
        owner,
        member,
        stranger,
        bot,
        guild,
        ..
    } = world;
    let form = json!({"name": "stage", "type": 13});
    let made = bot
        .rest
        .post(&format!("/guilds/{}/channels", guild.id), &form)
        .await;
    let Some(stage) = made.body["id"].as_str().map(str::to_owned) else {
        return;
    };
    let one = format!("/stage-instances/{stage}");
    let is_it = |d: &Value| d["channel_id"] == stage.as_str();
    book.prove("create_stage_instance", async |p: &mut Proof| {
        let form = json!({"channel_id": stage, "topic": "a play"});
        p.refuses(
            member.rest.post("/stage-instances", &form).await,
            403,
            50013,
        );
        let made = p.answers(bot.rest.post("/stage-instances", &form).await);
        p.acts(made["topic"] == "a play", "the topic reads");
        p.event(&[owner, member], "STAGE_INSTANCE_CREATE", is_it)
            .await;
        p.nobody_else(&[stranger], "STAGE_INSTANCE_CREATE", is_it)
            .await;
        p.faults(
            bot.rest
                .post("/stage-instances", &json!({"channel_id": stage}))
                .await,
            "topic",
            "BASE_TYPE_REQUIRED",
        );
    })
    .await;
    book.prove("get_stage_instance", async |p: &mut Proof| {
        let read = p.answers(member.rest.get(&one).await);
        p.acts(read["topic"] == "a play", "the topic reads");
        p.refuses(stranger.rest.get(&one).await, 403, 50001);
    })
    .await;
    book.prove("update_stage_instance", async |p: &mut Proof| {
        let changed = p.answers(bot.rest.patch(&one, &json!({"topic": "a dance"})).await);
        p.acts(changed["topic"] == "a dance", "the topic changes");
        p.event(&[owner, member], "STAGE_INSTANCE_UPDATE", is_it)
            .await;
        p.refuses(
            member.rest.patch(&one, &json!({"topic": "x"})).await,
            403,
            50013,
        );
    })
    .await;
    book.prove("delete_stage_instance", async |p: &mut Proof| {
        p.refuses(member.rest.delete(&one).await, 403, 50013);
        p.answers(bot.rest.delete(&one).await);
        p.event(&[owner, member], "STAGE_INSTANCE_DELETE", is_it)
            .await;
        p.acts(member.rest.get(&one).await.code() == 10067, "it is gone");
    })
    .await;
}

async fn voice(world: &World, book: &mut Book) {
    let World {
        owner,
        member,
        stranger,
        bot,
        guild,
        ..
    } = world;
    let path = format!("/guilds/{}/voice-states", guild.id);
    let form = json!({"name": "hall", "type": 13});
    let made = bot
        .rest
        .post(&format!("/guilds/{}/channels", guild.id), &form)
        .await;
    let Some(hall) = made.body["id"].as_str().map(str::to_owned) else {
        return;
    };
    let join = |channel: &str| json!({"op": 4, "d": {"guild_id": guild.id, "channel_id": channel, "self_mute": false, "self_deaf": false}});
    member.session.send(&join(&hall));
    let there = |d: &Value| d["user_id"] == member.id.as_str() && d["channel_id"] == hall.as_str();
    book.prove("get_voice_state", async |p: &mut Proof| {
        p.event(&[owner, bot, member], "VOICE_STATE_UPDATE", there)
            .await;
        p.nobody_else(&[stranger], "VOICE_STATE_UPDATE", there)
            .await;
        let read = p.answers(bot.rest.get(&format!("{path}/{}", member.id)).await);
        p.acts(there(&read), "the state reads");
        p.refuses(
            bot.rest.get(&format!("{path}/{}", owner.id)).await,
            404,
            10065,
        );
        p.refuses(
            stranger.rest.get(&format!("{path}/{}", member.id)).await,
            403,
            50001,
        );
    })
    .await;
    book.prove("get_self_voice_state", async |p: &mut Proof| {
        let read = p.answers(member.rest.get(&format!("{path}/@me")).await);
        p.acts(there(&read), "the state reads");
        p.refuses(bot.rest.get(&format!("{path}/@me")).await, 404, 10065);
    })
    .await;
    book.prove("update_self_voice_state", async |p: &mut Proof| {
        let now = json!({"channel_id": hall, "request_to_speak_timestamp": in_days(0)});
        p.answers(member.rest.patch(&format!("{path}/@me"), &now).await);
        let asked = |d: &Value| there(d) && d["request_to_speak_timestamp"].is_string();
        p.event(&[owner, bot], "VOICE_STATE_UPDATE", asked).await;
        let speak = json!({"channel_id": hall, "suppress": false});
        p.refuses(
            member.rest.patch(&format!("{path}/@me"), &speak).await,
            403,
            50013,
        );
    })
    .await;
    book.prove("update_voice_state", async |p: &mut Proof| {
        let one = format!("{path}/{}", member.id);
        let speak = json!({"channel_id": hall, "suppress": false});
        p.refuses(stranger.rest.patch(&one, &speak).await, 403, 50001);
        p.answers(bot.rest.patch(&one, &speak).await);
        let speaks = |d: &Value| there(d) && d["suppress"] == false;
        p.event(&[owner, member], "VOICE_STATE_UPDATE", speaks)
            .await;
        p.acts(
            bot.rest.get(&one).await.body["suppress"] == false,
            "the member may speak",
        );
    })
    .await;
}

async fn integrations(world: &World, book: &mut Book) {
    let World {
        owner,
        member,
        stranger,
        ..
    } = world;
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
    let World {
        owner,
        member,
        stranger,
        bot,
        ..
    } = world;
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
