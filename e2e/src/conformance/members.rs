//! Roles, and members until they leave.

use serde_json::{Value, json};

use super::{Book, NOTHING, Proof, World};
use crate::world::{each, text};

pub(super) async fn prove(world: &World, book: &mut Book) {
    roles(world, book).await;
    role_lists(world, book).await;
    members(world, book).await;
    own_member(world, book).await;
    removals(world, book).await;
}

async fn roles(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let path = format!("/guilds/{}/roles", guild.id);
    let mut id = String::new();
    book.prove("create_guild_role", async |p: &mut Proof| {
        let form = json!({"name": "red", "color": 0xff_0000, "permissions": "1024", "hoist": true});
        let role = p.answers(bot.rest.post(&path, &form).await);
        id = text(&role["id"]);
        p.acts(role["permissions"] == "1024", "the permissions read");
        let is_it = |d: &Value| d["role"]["id"] == id.as_str();
        p.event(&[owner, member], "GUILD_ROLE_CREATE", is_it).await;
        p.nobody_else(&[stranger], "GUILD_ROLE_CREATE", is_it).await;
        p.refuses(member.rest.post(&path, &form).await, 403, 50013);
        p.refuses(stranger.rest.post(&path, &form).await, 403, 50001);
        let long = json!({"name": "x".repeat(101)});
        p.faults(
            bot.rest.post(&path, &long).await,
            "name",
            "BASE_TYPE_BAD_LENGTH",
        );
    })
    .await;
    let one = format!("{path}/{id}");
    book.prove("get_guild_role", async |p: &mut Proof| {
        let role = p.answers(member.rest.get(&one).await);
        p.acts(role["name"] == "red", "the name reads");
        p.refuses(
            member.rest.get(&format!("{path}/{NOTHING}")).await,
            404,
            10011,
        );
        p.refuses(stranger.rest.get(&one).await, 403, 50001);
    })
    .await;
    book.prove("list_guild_roles", async |p: &mut Proof| {
        let list = p.answers(member.rest.get(&path).await);
        p.acts(
            each(&list).any(|role| role["id"] == id.as_str()),
            "it is listed",
        );
        p.refuses(stranger.rest.get(&path).await, 403, 50001);
    })
    .await;
    book.prove("update_guild_role", async |p: &mut Proof| {
        let role = p.answers(bot.rest.patch(&one, &json!({"name": "crimson"})).await);
        p.acts(role["name"] == "crimson", "the name changes");
        let is_it = |d: &Value| d["role"]["id"] == id.as_str() && d["role"]["name"] == "crimson";
        p.event(&[owner, member], "GUILD_ROLE_UPDATE", is_it).await;
        p.nobody_else(&[stranger], "GUILD_ROLE_UPDATE", is_it).await;
        p.refuses(
            member.rest.patch(&one, &json!({"name": "mine"})).await,
            403,
            50013,
        );
        p.refuses(
            bot.rest
                .patch(&format!("{path}/{NOTHING}"), &json!({}))
                .await,
            404,
            10011,
        );
    })
    .await;
    book.prove("add_guild_member_role", async |p: &mut Proof| {
        let held = format!("/guilds/{}/members/{}/roles/{id}", guild.id, member.id);
        p.answers(bot.rest.put(&held, &json!({})).await);
        let is_it = |d: &Value| {
            let roles = d["roles"].as_array();
            d["user"]["id"] == member.id.as_str()
                && roles.is_some_and(|roles| roles.contains(&json!(id)))
        };
        p.event(&[bot], "GUILD_MEMBER_UPDATE", is_it).await;
        p.nobody_else(&[stranger], "GUILD_MEMBER_UPDATE", is_it)
            .await;
        let read = owner
            .rest
            .get(&format!("/guilds/{}/members/{}", guild.id, member.id))
            .await;
        p.acts(read.body["roles"] == json!([id]), "the member holds it");
        p.refuses(member.rest.put(&held, &json!({})).await, 403, 50013);
    })
    .await;
    book.prove("delete_guild_member_role", async |p: &mut Proof| {
        let held = format!("/guilds/{}/members/{}/roles/{id}", guild.id, member.id);
        p.refuses(member.rest.delete(&held).await, 403, 50013);
        p.answers(bot.rest.delete(&held).await);
        let read = owner
            .rest
            .get(&format!("/guilds/{}/members/{}", guild.id, member.id))
            .await;
        p.acts(
            read.body["roles"] == json!([]),
            "the member holds it no more",
        );
        let is_it = |d: &Value| d["user"]["id"] == member.id.as_str() && d["roles"] == json!([]);
        p.event(&[bot], "GUILD_MEMBER_UPDATE", is_it).await;
    })
    .await;
    book.prove("delete_guild_role", async |p: &mut Proof| {
        p.refuses(member.rest.delete(&one).await, 403, 50013);
        p.answers(bot.rest.delete(&one).await);
        let is_it = |d: &Value| d["role_id"] == id.as_str();
        p.event(&[owner, member], "GUILD_ROLE_DELETE", is_it).await;
        p.nobody_else(&[stranger], "GUILD_ROLE_DELETE", is_it).await;
        p.acts(member.rest.get(&one).await.code() == 10011, "it is gone");
        p.refuses(bot.rest.delete(&one).await, 404, 10011);
    })
    .await;
}

async fn role_lists(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let path = format!("/guilds/{}/roles", guild.id);
    let role = world.grant(member, 0).await;
    book.prove("bulk_update_guild_roles", async |p: &mut Proof| {
        let form = json!([{"id": role, "position": 1}]);
        let list = p.answers(owner.rest.patch(&path, &form).await);
        p.acts(
            each(&list).any(|other| other["id"] == role.as_str()),
            "the roles are listed",
        );
        p.refuses(member.rest.patch(&path, &form).await, 403, 50013);
        let unknown = json!([{"id": NOTHING, "position": 1}]);
        p.refuses(owner.rest.patch(&path, &unknown).await, 404, 10011);
    })
    .await;
    book.prove("guild_role_member_counts", async |p: &mut Proof| {
        let counts = p.answers(bot.rest.get(&format!("{path}/member-counts")).await);
        p.acts(counts[&role] == 1, "the holder is counted");
        p.refuses(
            stranger.rest.get(&format!("{path}/member-counts")).await,
            403,
            50001,
        );
    })
    .await;
    book.prove("role_member_ids", async |p: &mut Proof| {
        let ids = p.answers(owner.rest.get(&format!("{path}/{role}/member-ids")).await);
        p.acts(ids == json!([member.id]), "the holder is listed");
        p.refuses(
            stranger
                .rest
                .get(&format!("{path}/{role}/member-ids"))
                .await,
            403,
            50001,
        );
    })
    .await;
    book.prove("role_members_add", async |p: &mut Proof| {
        let form = json!({"member_ids": [owner.id]});
        p.answers(
            owner
                .rest
                .patch(&format!("{path}/{role}/members"), &form)
                .await,
        );
        let is_it = |d: &Value| d["user"]["id"] == owner.id.as_str() && d["roles"] == json!([role]);
        p.event(&[bot, owner], "GUILD_MEMBER_UPDATE", is_it).await;
        p.refuses(
            member
                .rest
                .patch(&format!("{path}/{role}/members"), &form)
                .await,
            403,
            50013,
        );
    })
    .await;
    world.strip(&role).await;
}

async fn members(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let path = format!("/guilds/{}/members", guild.id);
    let one = format!("{path}/{}", member.id);
    book.prove("get_guild_member", async |p: &mut Proof| {
        let read = p.answers(bot.rest.get(&one).await);
        p.acts(read["user"]["id"] == member.id.as_str(), "the user reads");
        p.refuses(bot.rest.get(&format!("{path}/{NOTHING}")).await, 404, 10013);
        p.refuses(
            bot.rest.get(&format!("{path}/{}", stranger.id)).await,
            404,
            10007,
        );
        p.refuses(stranger.rest.get(&one).await, 403, 50001);
    })
    .await;
    book.prove("list_guild_members", async |p: &mut Proof| {
        let first = p.answers(bot.rest.get(&format!("{path}?limit=1")).await);
        let after = text(&first[0]["user"]["id"]);
        let second = bot
            .rest
            .get(&format!("{path}?limit=1&after={after}"))
            .await
            .body;
        p.acts(
            second[0]["user"]["id"] != after.as_str(),
            "after is exclusive",
        );
        p.refuses(stranger.rest.get(&path).await, 403, 20002);
        p.faults(
            bot.rest.get(&format!("{path}?limit=1001")).await,
            "limit",
            "NUMBER_TYPE_MAX",
        );
    })
    .await;
    book.prove("search_guild_members", async |p: &mut Proof| {
        let query = &member.account.name[..8];
        let found = p.answers(
            bot.rest
                .get(&format!("{path}/search?query={query}&limit=10"))
                .await,
        );
        p.acts(
            each(&found).any(|found| found["user"]["id"] == member.id.as_str()),
            "the member is found",
        );
        p.faults(
            bot.rest.get(&format!("{path}/search")).await,
            "query",
            "BASE_TYPE_REQUIRED",
        );
        p.refuses(
            stranger.rest.get(&format!("{path}/search?query=a")).await,
            403,
            50001,
        );
    })
    .await;
    book.prove("update_guild_member", async |p: &mut Proof| {
        let named = p.answers(bot.rest.patch(&one, &json!({"nick": "Nick"})).await);
        p.acts(named["nick"] == "Nick", "the nick changes");
        let is_it = |d: &Value| d["user"]["id"] == member.id.as_str() && d["nick"] == "Nick";
        p.event(&[bot, member], "GUILD_MEMBER_UPDATE", is_it).await;
        p.nobody_else(&[stranger], "GUILD_MEMBER_UPDATE", is_it)
            .await;
        let owners = format!("{path}/{}", owner.id);
        p.refuses(
            member.rest.patch(&owners, &json!({"nick": "x"})).await,
            403,
            50013,
        );
        p.refuses(
            bot.rest
                .patch(&format!("{path}/{}", stranger.id), &json!({"nick": "x"}))
                .await,
            404,
            10007,
        );
        let long = json!({"nick": "x".repeat(33)});
        p.faults(
            bot.rest.patch(&one, &long).await,
            "nick",
            "BASE_TYPE_MAX_LENGTH",
        );
    })
    .await;
}

async fn own_member(world: &World, book: &mut Book) {
    let [_, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let me = format!("/guilds/{}/members/@me", guild.id);
    let named = |name: &'static str| {
        move |d: &Value| d["user"]["id"] == member.id.as_str() && d["nick"] == name
    };
    book.prove("update_my_guild_member", async |p: &mut Proof| {
        let read = p.answers(member.rest.patch(&me, &json!({"nick": "Me"})).await);
        p.acts(read["nick"] == "Me", "the nick changes");
        p.event(&[bot], "GUILD_MEMBER_UPDATE", named("Me")).await;
        p.nobody_else(&[stranger], "GUILD_MEMBER_UPDATE", named("Me"))
            .await;
        p.refuses(
            stranger.rest.patch(&me, &json!({"nick": "x"})).await,
            403,
            50001,
        );
    })
    .await;
    book.prove("update_my_nick", async |p: &mut Proof| {
        let read = p.answers(
            member
                .rest
                .patch(&format!("{me}/nick"), &json!({"nick": "Myself"}))
                .await,
        );
        p.acts(read["nick"] == "Myself", "the nick changes");
        p.event(&[bot], "GUILD_MEMBER_UPDATE", named("Myself"))
            .await;
        p.refuses(
            stranger
                .rest
                .patch(&format!("{me}/nick"), &json!({"nick": "x"}))
                .await,
            403,
            50001,
        );
    })
    .await;
    book.prove("get_my_guild_member", async |p: &mut Proof| {
        let path = |guild: &str| format!("/users/@me/guilds/{guild}/member");
        let read = p.answers(member.rest.get(&path(&guild.id)).await);
        p.acts(read["user"]["id"] == member.id.as_str(), "it is one's own");
        p.refuses(member.rest.get(&path(NOTHING)).await, 404, 10004);
    })
    .await;
}

async fn removals(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    book.prove("delete_guild_member", async |p: &mut Proof| {
        let guest = world.guest().await;
        let path = format!("/guilds/{}/members/{}", guild.id, guest.id);
        p.refuses(member.rest.delete(&path).await, 403, 50013);
        p.answers(bot.rest.delete(&path).await);
        let is_it = |d: &Value| d["user"]["id"] == guest.id.as_str();
        p.event(&[bot], "GUILD_MEMBER_REMOVE", is_it).await;
        p.nobody_else(&[stranger], "GUILD_MEMBER_REMOVE", is_it)
            .await;
        p.acts(
            bot.rest.get(&path).await.code() == 10007,
            "the guest is no member",
        );
        p.refuses(bot.rest.delete(&path).await, 404, 10007);
    })
    .await;
    book.prove("leave_guild", async |p: &mut Proof| {
        let guest = world.guest().await;
        let path = format!("/users/@me/guilds/{}", guild.id);
        p.answers(guest.rest.delete(&path).await);
        let is_it = |d: &Value| d["user"]["id"] == guest.id.as_str();
        p.event(&[bot], "GUILD_MEMBER_REMOVE", is_it).await;
        p.nobody_else(&[stranger], "GUILD_MEMBER_REMOVE", is_it)
            .await;
        let mine = guest.rest.get("/users/@me/guilds").await.body;
        p.acts(mine == json!([]), "the guild is not listed any more");
        p.refuses(guest.rest.delete(&path).await, 404, 10004);
        p.refuses(owner.rest.delete(&path).await, 400, 50055);
    })
    .await;
}
