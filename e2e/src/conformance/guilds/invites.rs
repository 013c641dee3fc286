//! Invites and templates.

use serde_json::{Value, json};

use super::{Book, Proof, World};
use crate::world::{each, text};

pub(super) async fn prove(world: &World, book: &mut Book) {
    invites(world, book).await;
    templates(world, book).await;
}

async fn invites(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
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
        let invite = each(&list).find(|invite| invite["code"] == code.as_str());
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
            who.answer(request).await
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
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
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
