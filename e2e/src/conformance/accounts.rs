//! Accounts, sessions, settings, relationships, the instance.

use serde_json::{Value, json};

use super::{Book, NOTHING, Proof, World, credentials::password};
use crate::{
    rest::Rest,
    world::{each, random_word},
};

pub(super) async fn prove(world: &World, book: &mut Book) {
    instance(world, book).await;
    users(world, book).await;
    settings(world, book).await;
    notes(world, book).await;
    relationships(world, book).await;
    endings(world, book).await;
}

async fn instance(world: &World, book: &mut Book) {
    let nobody = Rest::new(&world.origin);
    for (operation, path, key) in [
        ("get_gateway", "/gateway", "url"),
        ("instance_info", "/policies/instance", "instanceName"),
        ("instance_domains", "/policies/instance/domains", "gateway"),
        ("instance_limits", "/policies/instance/limits", "message"),
        ("instance_config", "/policies/instance/config", ""),
        ("instance_ping", "/ping", "ping"),
        (
            "auth_location_metadata",
            "/auth/location-metadata",
            "country_code",
        ),
    ] {
        book.prove(operation, async |p: &mut Proof| {
            let read = p.answers(nobody.get(path).await);
            p.acts(
                read.is_object() && (key.is_empty() || !read[key].is_null()),
                "it says what it must",
            );
            p.refuses_no_more();
        })
        .await;
    }
    for (operation, path) in [
        ("well_known_client", "/.well-known/spacebar/client"),
        ("well_known_legacy", "/.well-known/spacebar"),
    ] {
        book.prove(operation, async |p: &mut Proof| {
            // At the host's root.
            let reply = nobody.get(&format!("/../..{path}")).await;
            p.acts(!reply.body["api"].is_null(), "the API is named");
            p.answers(reply);
            p.refuses_no_more();
        })
        .await;
    }
    book.prove("get_bot_gateway", async |p: &mut Proof| {
        let read = p.answers(world.bot.rest.get("/gateway/bot").await);
        p.acts(
            read["session_start_limit"]["remaining"].is_u64(),
            "starts are left",
        );
        p.refuses_no_more();
    })
    .await;
}

async fn users(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    book.prove("get_my_user", async |p: &mut Proof| {
        let me = p.answers(bot.rest.get("/users/@me").await);
        p.acts(me["id"] == bot.id.as_str(), "it is oneself");
        p.refuses_no_more();
    })
    .await;
    book.prove("get_user", async |p: &mut Proof| {
        let user = p.answers(bot.rest.get(&format!("/users/{}", member.id)).await);
        p.acts(
            user["username"] == member.account.name.as_str(),
            "the name reads",
        );
        p.acts(user["email"].is_null(), "the mail address does not");
        p.refuses(bot.rest.get(&format!("/users/{NOTHING}")).await, 404, 10013);
    })
    .await;
    book.prove("update_my_user", async |p: &mut Proof| {
        let name = format!("bot.{}", random_word());
        let changed = p.answers(
            bot.rest
                .patch("/users/@me", &json!({"username": name}))
                .await,
        );
        p.acts(changed["username"] == name.as_str(), "the name changes");
        p.event(&[bot], "USER_UPDATE", |d| d["username"] == name.as_str())
            .await;
        let seen = |d: &Value| d["user"]["username"] == name.as_str();
        p.event(&[bot], "GUILD_MEMBER_UPDATE", seen).await;
        p.nobody_else(&[stranger], "GUILD_MEMBER_UPDATE", seen)
            .await;
        p.faults(
            bot.rest
                .patch("/users/@me", &json!({"username": "x"}))
                .await,
            "username",
            "BASE_TYPE_BAD_LENGTH",
        );
    })
    .await;
    book.prove("update_my_user", async |p: &mut Proof| {
        let form = json!({"global_name": "Member", "bio": "here"});
        let changed = p.answers(member.rest.patch("/users/@me", &form).await);
        p.acts(changed["global_name"] == "Member", "the name changes");
        p.event(&[member], "USER_UPDATE", |d| d["global_name"] == "Member")
            .await;
        let long = json!({"global_name": "x".repeat(33)});
        p.faults(
            member.rest.patch("/users/@me", &long).await,
            "global_name",
            "BASE_TYPE_BAD_LENGTH",
        );
    })
    .await;
    book.prove("user_profile_update", async |p: &mut Proof| {
        p.answers(
            member
                .rest
                .patch("/users/@me/profile", &json!({"bio": "hello"}))
                .await,
        );
        let read = owner
            .rest
            .get(&format!("/users/{}/profile", member.id))
            .await
            .body;
        p.acts(read["user_profile"]["bio"] == "hello", "the text changes");
        let long = json!({"bio": "x".repeat(191)});
        p.faults(
            member.rest.patch("/users/@me/profile", &long).await,
            "bio",
            "BASE_TYPE_MAX_LENGTH",
        );
    })
    .await;
    book.prove("user_profile", async |p: &mut Proof| {
        let read = p.answers(
            owner
                .rest
                .get(&format!("/users/{}/profile", member.id))
                .await,
        );
        p.acts(
            read["mutual_guilds"].to_string().contains(&world.guild.id),
            "the guild is mutual",
        );
        p.refuses(
            owner.rest.get(&format!("/users/{NOTHING}/profile")).await,
            404,
            10013,
        );
    })
    .await;
}

async fn settings(world: &World, book: &mut Book) {
    let [_, member, stranger, ..] = world.people();
    let guild = &world.guild;
    book.prove("user_settings_update", async |p: &mut Proof| {
        let changed = p.answers(
            member
                .rest
                .patch("/users/@me/settings", &json!({"theme": "light"}))
                .await,
        );
        p.acts(changed["theme"] == "light", "the theme changes");
        let is_it = |d: &Value| d["theme"] == "light";
        p.event(&[member], "USER_SETTINGS_UPDATE", is_it).await;
        p.nobody_else(&[stranger], "USER_SETTINGS_UPDATE", is_it)
            .await;
        p.refuses_no_more();
    })
    .await;
    book.prove("user_settings_get", async |p: &mut Proof| {
        let read = p.answers(member.rest.get("/users/@me/settings").await);
        p.acts(
            read["theme"] == "light" && read["locale"].is_string(),
            "all settings read",
        );
        p.refuses_no_more();
    })
    .await;
    book.prove("user_guild_settings_update", async |p: &mut Proof| {
        let path = format!("/users/@me/guilds/{}/settings", guild.id);
        let set = p.answers(member.rest.patch(&path, &json!({"muted": true})).await);
        p.acts(set["muted"] == true, "the guild is muted");
        let is_it = |d: &Value| d["guild_id"] == guild.id.as_str() && d["muted"] == true;
        p.event(&[member], "USER_GUILD_SETTINGS_UPDATE", is_it)
            .await;
        p.nobody_else(&[stranger], "USER_GUILD_SETTINGS_UPDATE", is_it)
            .await;
        p.refuses_no_more();
    })
    .await;
    book.prove("user_guild_settings_bulk", async |p: &mut Proof| {
        let form = json!({"guilds": {&guild.id: {"muted": false}}});
        p.answers(member.rest.patch("/users/@me/guilds/settings", &form).await);
        let is_it = |d: &Value| d["guild_id"] == guild.id.as_str() && d["muted"] == false;
        p.event(&[member], "USER_GUILD_SETTINGS_UPDATE", is_it)
            .await;
        p.refuses_no_more();
    })
    .await;
}

async fn notes(world: &World, book: &mut Book) {
    let [owner, member, stranger, ..] = world.people();
    let path = format!("/users/@me/notes/{}", owner.id);
    book.prove("user_note_put", async |p: &mut Proof| {
        p.answers(member.rest.put(&path, &json!({"note": "kind"})).await);
        let is_it = |d: &Value| d["id"] == owner.id.as_str() && d["note"] == "kind";
        p.event(&[member], "USER_NOTE_UPDATE", is_it).await;
        p.nobody_else(&[owner, stranger], "USER_NOTE_UPDATE", is_it)
            .await;
        p.refuses(
            member
                .rest
                .put(
                    &format!("/users/@me/notes/{NOTHING}"),
                    &json!({"note": "x"}),
                )
                .await,
            404,
            10013,
        );
    })
    .await;
    book.prove("user_note_get", async |p: &mut Proof| {
        let note = p.answers(member.rest.get(&path).await);
        p.acts(note["note"] == "kind", "the note reads");
        p.refuses(
            member
                .rest
                .get(&format!("/users/@me/notes/{}", stranger.id))
                .await,
            404,
            10013,
        );
    })
    .await;
    book.prove("user_notes", async |p: &mut Proof| {
        let notes = p.answers(member.rest.get("/users/@me/notes").await);
        p.acts(notes[&owner.id] == "kind", "the note is listed");
        p.refuses_no_more();
    })
    .await;
}

async fn relationships(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let list = "/users/@me/relationships";
    // Others may have made some.
    for (one, two) in [(member, stranger), (stranger, member)] {
        one.rest.delete(&format!("{list}/{}", two.id)).await;
    }
    let with = |person: &super::Person| {
        let id = person.id.clone();
        move |d: &Value| d["id"] == id.as_str()
    };
    book.prove("relationships_request", async |p: &mut Proof| {
        let form = json!({"username": stranger.account.name});
        p.answers(member.rest.post(list, &form).await);
        p.event(&[stranger], "RELATIONSHIP_ADD", |d| {
            with(member)(d) && d["type"] == 3
        })
        .await;
        p.event(&[member], "RELATIONSHIP_ADD", |d| {
            with(stranger)(d) && d["type"] == 4
        })
        .await;
        p.nobody_else(&[bot], "RELATIONSHIP_ADD", with(member))
            .await;
        p.refuses(
            member
                .rest
                .post(list, &json!({"username": "nobody.at.all"}))
                .await,
            400,
            80004,
        );
    })
    .await;
    book.prove("relationships_put", async |p: &mut Proof| {
        p.answers(
            stranger
                .rest
                .put(&format!("{list}/{}", member.id), &json!({}))
                .await,
        );
        p.event(&[member], "RELATIONSHIP_ADD", |d| {
            with(stranger)(d) && d["type"] == 1
        })
        .await;
        p.acts(true, "see relationships_list");
        p.refuses(
            member
                .rest
                .put(&format!("{list}/{NOTHING}"), &json!({}))
                .await,
            404,
            10013,
        );
    })
    .await;
    book.prove("relationships_list", async |p: &mut Proof| {
        let listed = p.answers(member.rest.get(list).await);
        p.acts(
            each(&listed).any(|other| with(stranger)(other) && other["type"] == 1),
            "the friend is listed",
        );
        p.refuses_no_more();
    })
    .await;
    book.prove("user_mutual_friends", async |p: &mut Proof| {
        owner
            .rest
            .put(&format!("{list}/{}", stranger.id), &json!({}))
            .await;
        stranger
            .rest
            .put(&format!("{list}/{}", owner.id), &json!({}))
            .await;
        let mutual = p.answers(
            member
                .rest
                .get(&format!("/users/{}/relationships", owner.id))
                .await,
        );
        p.acts(
            mutual.to_string().contains(&stranger.id),
            "the common friend is listed",
        );
        p.refuses_no_more();
    })
    .await;
    book.prove("relationships_update", async |p: &mut Proof| {
        p.answers(
            member
                .rest
                .patch(
                    &format!("{list}/{}", stranger.id),
                    &json!({"nickname": "S"}),
                )
                .await,
        );
        let is_it = |d: &Value| with(stranger)(d) && d["nickname"] == "S";
        p.event(&[member], "RELATIONSHIP_UPDATE", is_it).await;
        p.nobody_else(&[stranger], "RELATIONSHIP_UPDATE", is_it)
            .await;
        p.refuses_no_more();
    })
    .await;
    book.prove("relationships_delete", async |p: &mut Proof| {
        p.answers(member.rest.delete(&format!("{list}/{}", stranger.id)).await);
        p.event(&[stranger], "RELATIONSHIP_REMOVE", with(member))
            .await;
        p.event(&[member], "RELATIONSHIP_REMOVE", with(stranger))
            .await;
        let theirs = |d: &Value| with(member)(d) || with(stranger)(d);
        p.nobody_else(&[owner], "RELATIONSHIP_REMOVE", theirs).await;
        let listed = member.rest.get(list).await.body;
        p.acts(
            !listed.to_string().contains(&stranger.id),
            "nobody is listed",
        );
        p.refuses_no_more();
    })
    .await;
}

async fn endings(world: &World, book: &mut Book) {
    for (operation, path) in [
        ("user_disable", "/users/@me/disable"),
        ("user_delete", "/users/@me/delete"),
    ] {
        let guest = world.newcomer().await;
        book.prove(operation, async |p: &mut Proof| {
            let wrong = json!({"password": "wrong password"});
            p.refuses(guest.rest.post(path, &wrong).await, 400, 50035);
            p.answers(
                guest
                    .rest
                    .post(path, &json!({"password": password(&guest.name)}))
                    .await,
            );
            p.acts(
                guest.rest.get("/users/@me").await.status == 401,
                "the token is dead",
            );
        })
        .await;
    }
}
