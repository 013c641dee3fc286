//! Channels, threads, DMs.

use serde_json::{Value, json};

use super::{Book, NOTHING, Proof, World};
use crate::world::{each, permission, text};

pub(super) async fn prove(world: &World, book: &mut Book) {
    channels(world, book).await;
    direct_messages(world, book).await;
    groups(world, book).await;
    threads(world, book).await;
    thread_members(world, book).await;
    thread_lists(world, book).await;
}

async fn channels(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
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
        let has = |id: &str| each(&listed).any(|channel| channel["id"] == id);
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
    book.prove(
        "delete_channel_permission_overwrite",
        async |p: &mut Proof| {
            let path = format!("{path}/permissions/{}", world.guild.id);
            p.refuses(member.rest.delete(&path).await, 403, 50013);
            p.answers(bot.rest.delete(&path).await);
            let is_it =
                |d: &Value| d["id"] == id.as_str() && d["permission_overwrites"] == json!([]);
            p.event(&[owner, member], "CHANNEL_UPDATE", is_it).await;
            let read = member.rest.get(&format!("/channels/{id}")).await.body;
            p.acts(read["permission_overwrites"] == json!([]), "there is none");
        },
    )
    .await;
    book.prove("update_channel", async |p: &mut Proof| {
        let changed = p.answers(bot.rest.patch(&path, &json!({"topic": "today"})).await);
        p.acts(changed["topic"] == "today", "the topic changes");
        let is_it = |d: &Value| d["id"] == id.as_str() && d["topic"] == "today";
        p.event(&[owner, member], "CHANNEL_UPDATE", is_it).await;
        p.nobody_else(&[stranger], "CHANNEL_UPDATE", is_it).await;
        p.refuses(
            member.rest.patch(&path, &json!({"topic": "mine"})).await,
            403,
            50013,
        );
        let slow = json!({"rate_limit_per_user": 21601});
        p.faults(
            bot.rest.patch(&path, &slow).await,
            "rate_limit_per_user",
            "NUMBER_TYPE_MAX",
        );
    })
    .await;
    book.prove("bulk_update_guild_channels", async |p: &mut Proof| {
        let form = json!([{"id": id, "position": 40}]);
        p.refuses(member.rest.patch(&channels, &form).await, 403, 50013);
        p.answers(bot.rest.patch(&channels, &form).await);
        let is_it = |d: &Value| d["id"] == id.as_str() && d["topic"] == "today";
        p.event(&[owner, member], "CHANNEL_UPDATE", is_it).await;
        let read = member.rest.get(&path).await.body;
        p.acts(read["position"] != 0, "it has moved");
    })
    .await;
    book.prove("update_voice_channel_status", async |p: &mut Proof| {
        let voice = world.channel_of_type(2).await.expect("a voice channel");
        let status = format!("/channels/{voice}/voice-status");
        p.answers(bot.rest.put(&status, &json!({"status": "singing"})).await);
        let is_it = |d: &Value| d["id"] == voice.as_str() && d["status"] == "singing";
        p.event(&[owner, member], "VOICE_CHANNEL_STATUS_UPDATE", is_it)
            .await;
        p.nobody_else(&[stranger], "VOICE_CHANNEL_STATUS_UPDATE", is_it)
            .await;
        p.refuses(
            stranger.rest.put(&status, &json!({"status": "x"})).await,
            403,
            50001,
        );
    })
    .await;
    book.prove("delete_channel", async |p: &mut Proof| {
        p.refuses(member.rest.delete(&path).await, 403, 50013);
        p.answers(bot.rest.delete(&path).await);
        let is_it = |d: &Value| d["id"] == id.as_str();
        p.event(&[owner, member], "CHANNEL_DELETE", is_it).await;
        p.nobody_else(&[stranger], "CHANNEL_DELETE", is_it).await;
        p.acts(member.rest.get(&path).await.code() == 10003, "it is gone");
        p.refuses(bot.rest.delete(&path).await, 404, 10003);
    })
    .await;
}

async fn direct_messages(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let mut dm = String::new();
    book.prove("create_dm", async |p: &mut Proof| {
        let form = json!({"recipient_id": owner.id});
        let made = p.answers(member.rest.post("/users/@me/channels", &form).await);
        dm = text(&made["id"]);
        let again = member.rest.post("/users/@me/channels", &form).await.body;
        p.acts(again["id"] == dm.as_str(), "there is one of each pair");
        let said = member.account.say(&dm, "between us").await;
        let is_it = |d: &Value| d["id"] == said.as_str() && d["guild_id"].is_null();
        p.event(&[owner, member], "MESSAGE_CREATE", is_it).await;
        p.nobody_else(&[stranger, bot], "MESSAGE_CREATE", is_it)
            .await;
        p.refuses(
            stranger.rest.get(&format!("/channels/{dm}/messages")).await,
            404,
            10003,
        );
        let nobody = json!({"recipient_id": NOTHING});
        p.refuses(
            member.rest.post("/users/@me/channels", &nobody).await,
            404,
            10013,
        );
    })
    .await;
    book.prove("user_dm_list", async |p: &mut Proof| {
        let list = p.answers(member.rest.get("/users/@me/channels").await);
        p.acts(list.to_string().contains(&dm), "it is listed");
        p.refuses_no_more();
    })
    .await;
    book.prove("user_dm_get", async |p: &mut Proof| {
        let read = p.answers(
            member
                .rest
                .get(&format!("/users/@me/dms/{}", owner.id))
                .await,
        );
        p.acts(read["id"] == dm.as_str(), "it is the one");
        let none = member.rest.get(&format!("/users/@me/dms/{}", bot.id)).await;
        p.refuses(none, 404, 10003);
    })
    .await;
}

async fn befriend(one: &super::Person, two: &super::Person) {
    let ask = format!("/users/@me/relationships/{}", two.id);
    one.rest.put(&ask, &json!({})).await;
    let accept = format!("/users/@me/relationships/{}", one.id);
    two.rest.put(&accept, &json!({})).await;
}

async fn groups(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    befriend(owner, member).await;
    befriend(owner, stranger).await;
    let form = json!({"recipients": [member.id, stranger.id]});
    let Some(group) = owner.rest.post("/users/@me/channels", &form).await.id() else {
        return;
    };
    let in_group = |d: &Value| d["channel_id"] == group.as_str();
    let one = format!("/channels/{group}/recipients/{}", stranger.id);
    book.prove("delete_group_dm_user", async |p: &mut Proof| {
        p.refuses(bot.rest.delete(&one).await, 404, 10003);
        p.answers(owner.rest.delete(&one).await);
        p.event(&[owner, member], "CHANNEL_RECIPIENT_REMOVE", in_group)
            .await;
        p.event(&[stranger], "CHANNEL_DELETE", |d| d["id"] == group.as_str())
            .await;
        let read = owner.rest.get(&format!("/channels/{group}")).await.body;
        p.acts(
            !read.to_string().contains(&stranger.id),
            "the recipient is gone",
        );
    })
    .await;
    book.prove("add_group_dm_user", async |p: &mut Proof| {
        p.refuses(stranger.rest.put(&one, &json!({})).await, 404, 10003);
        p.answers(owner.rest.put(&one, &json!({})).await);
        p.event(&[owner, member], "CHANNEL_RECIPIENT_ADD", in_group)
            .await;
        p.event(&[stranger], "CHANNEL_CREATE", |d| d["id"] == group.as_str())
            .await;
        p.nobody_else(&[bot], "CHANNEL_RECIPIENT_ADD", in_group)
            .await;
        let read = owner.rest.get(&format!("/channels/{group}")).await.body;
        p.acts(
            read.to_string().contains(&stranger.id),
            "the recipient is there",
        );
    })
    .await;
    group_invites(world, book, &group).await;
    for person in [stranger, member, owner] {
        person.rest.delete(&format!("/channels/{group}")).await;
    }
}

/// The same operations as for guilds.
async fn group_invites(world: &World, book: &mut Book, group: &str) {
    let [owner, member, stranger, bot] = world.people();
    let invites = format!("/channels/{group}/invites");
    let mut code = String::new();
    book.prove("create_channel_invite", async |p: &mut Proof| {
        let invite = p.answers(member.rest.post(&invites, &json!({"max_age": 600})).await);
        code = text(&invite["code"]);
        p.acts(invite["type"] == 1, "it leads to a group");
        p.refuses(bot.rest.post(&invites, &json!({})).await, 404, 10003);
        p.faults(
            member.rest.post(&invites, &json!({"max_age": 0})).await,
            "max_age",
            "NUMBER_TYPE_MIN",
        );
    })
    .await;
    let one = format!("/invites/{code}");
    book.prove("list_channel_invites", async |p: &mut Proof| {
        let list = p.answers(owner.rest.get(&invites).await);
        p.acts(list.to_string().contains(&code), "it is listed");
        p.refuses(bot.rest.get(&invites).await, 404, 10003);
    })
    .await;
    book.prove("invite_resolve", async |p: &mut Proof| {
        let read = p.answers(bot.rest.get(&one).await);
        p.acts(read["channel"]["id"] == group, "the group is told");
    })
    .await;
    book.prove("invite_accept", async |p: &mut Proof| {
        let guest = world.newcomer().await;
        let taken = p.answers(guest.rest.post(&one, &json!({})).await);
        p.acts(taken["new_member"] == true, "who takes it is new");
        let is_it = |d: &Value| d["channel_id"] == group && d["user"]["id"] == guest.id.as_str();
        p.event(&[owner, member, stranger], "CHANNEL_RECIPIENT_ADD", is_it)
            .await;
        p.nobody_else(&[bot], "CHANNEL_RECIPIENT_ADD", is_it).await;
        guest.rest.delete(&format!("/channels/{group}")).await;
    })
    .await;
    book.prove("invite_revoke", async |p: &mut Proof| {
        p.refuses(stranger.rest.delete(&one).await, 403, 50013);
        p.answers(owner.rest.delete(&one).await);
        p.acts(bot.rest.get(&one).await.code() == 10006, "it is gone");
    })
    .await;
}

async fn threads(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let lobby = &guild.lobby;
    book.prove("create_thread_from_message", async |p: &mut Proof| {
        let message = bot.account.say(lobby, "discuss").await;
        let path = format!("/channels/{lobby}/messages/{message}/threads");
        let thread = p.answers(bot.rest.post(&path, &json!({"name": "talk"})).await);
        p.acts(thread["id"] == message.as_str(), "it has the message's id");
        let is_it = |d: &Value| d["id"] == message.as_str();
        p.event(&[owner, bot], "THREAD_CREATE", is_it).await;
        p.nobody_else(&[stranger], "THREAD_CREATE", is_it).await;
        p.refuses(
            bot.rest.post(&path, &json!({"name": "again"})).await,
            400,
            160_004,
        );
        p.refuses(
            stranger.rest.post(&path, &json!({"name": "x"})).await,
            403,
            50001,
        );
        p.faults(
            bot.rest.post(&path, &json!({})).await,
            "name",
            "BASE_TYPE_REQUIRED",
        );
    })
    .await;
    book.prove("create_thread", async |p: &mut Proof| {
        let path = format!("/channels/{lobby}/threads");
        let open = p.answers(
            bot.rest
                .post(&path, &json!({"name": "open", "type": 11}))
                .await,
        );
        let open = text(&open["id"]);
        let said = bot.account.say(&open, "in the thread").await;
        let is_said = |d: &Value| d["id"] == said.as_str();
        p.event(&[owner, member], "MESSAGE_CREATE", is_said).await;
        p.nobody_else(&[stranger], "MESSAGE_CREATE", is_said).await;
        let closed = p.answers(
            bot.rest
                .post(&path, &json!({"name": "closed", "type": 12}))
                .await,
        );
        let closed = text(&closed["id"]);
        let said = bot.account.say(&closed, "in private").await;
        let is_said = |d: &Value| d["id"] == said.as_str();
        p.event(&[owner], "MESSAGE_CREATE", is_said).await;
        p.nobody_else(&[member, stranger], "MESSAGE_CREATE", is_said)
            .await;
        p.acts(
            member.rest.get(&format!("/channels/{closed}")).await.status != 200,
            "it is private",
        );
        p.refuses(
            stranger
                .rest
                .post(&path, &json!({"name": "x", "type": 11}))
                .await,
            403,
            50001,
        );
        p.faults(
            bot.rest.post(&path, &json!({"type": 11})).await,
            "name",
            "BASE_TYPE_REQUIRED",
        );
    })
    .await;
}

async fn thread_members(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let threads = format!("/channels/{}/threads", guild.lobby);
    let form = json!({"name": "crowd", "type": 11});
    let Some(thread) = bot.rest.post(&threads, &form).await.id() else {
        return;
    };
    let path = format!("/channels/{thread}/thread-members");
    let one = format!("{path}/{}", member.id);
    let added = |d: &Value| {
        d["id"] == thread.as_str() && d["added_members"].to_string().contains(&member.id)
    };
    let removed =
        |d: &Value| d["removed_member_ids"] == json!([member.id]) && d["id"] == thread.as_str();
    book.prove("join_thread", async |p: &mut Proof| {
        p.answers(member.rest.put(&format!("{path}/@me"), &json!({})).await);
        p.event(&[owner, member, bot], "THREAD_MEMBERS_UPDATE", added)
            .await;
        p.nobody_else(&[stranger], "THREAD_MEMBERS_UPDATE", added)
            .await;
        p.acts(
            bot.rest.get(&one).await.status == 200,
            "the member is in it",
        );
        p.refuses(
            stranger.rest.put(&format!("{path}/@me"), &json!({})).await,
            403,
            50001,
        );
    })
    .await;
    book.prove("get_thread_member", async |p: &mut Proof| {
        let read = p.answers(bot.rest.get(&one).await);
        p.acts(read["user_id"] == member.id.as_str(), "the member reads");
        p.refuses(
            bot.rest.get(&format!("{path}/{}", owner.id)).await,
            404,
            10007,
        );
    })
    .await;
    book.prove("list_thread_members", async |p: &mut Proof| {
        let list = p.answers(bot.rest.get(&path).await);
        p.acts(
            list.to_string().contains(&member.id),
            "the member is listed",
        );
        p.refuses(stranger.rest.get(&path).await, 403, 50001);
    })
    .await;
    book.prove("thread_member_settings", async |p: &mut Proof| {
        let me = format!("{path}/@me/settings");
        p.answers(member.rest.patch(&me, &json!({"muted": true})).await);
        p.event(&[member], "THREAD_MEMBER_UPDATE", |d| {
            d["id"] == thread.as_str()
        })
        .await;
        p.nobody_else(&[stranger, owner], "THREAD_MEMBER_UPDATE", |d| {
            d["id"] == thread.as_str()
        })
        .await;
        p.refuses(
            stranger.rest.patch(&me, &json!({"muted": true})).await,
            403,
            50001,
        );
    })
    .await;
    book.prove("leave_thread", async |p: &mut Proof| {
        p.answers(member.rest.delete(&format!("{path}/@me")).await);
        p.event(&[owner, member, bot], "THREAD_MEMBERS_UPDATE", removed)
            .await;
        p.acts(
            bot.rest.get(&one).await.code() == 10007,
            "the member is not in it",
        );
        p.refuses(
            stranger.rest.delete(&format!("{path}/@me")).await,
            403,
            50001,
        );
    })
    .await;
    book.prove("add_thread_member", async |p: &mut Proof| {
        p.answers(bot.rest.put(&one, &json!({})).await);
        p.acts(
            bot.rest.get(&one).await.status == 200,
            "the member is in it",
        );
        p.event(&[owner, member, bot], "THREAD_MEMBERS_UPDATE", added)
            .await;
        p.refuses(stranger.rest.put(&one, &json!({})).await, 403, 50001);
    })
    .await;
    book.prove("delete_thread_member", async |p: &mut Proof| {
        p.refuses(
            member.rest.delete(&format!("{path}/{}", bot.id)).await,
            403,
            50013,
        );
        p.answers(bot.rest.delete(&one).await);
        p.event(&[owner, member, bot], "THREAD_MEMBERS_UPDATE", removed)
            .await;
        p.acts(
            bot.rest.get(&one).await.code() == 10007,
            "the member is not in it",
        );
    })
    .await;
}

async fn thread_lists(world: &World, book: &mut Book) {
    let [_, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let channel = world.channel().await;
    let make = async |kind: u8| {
        let form = json!({"name": format!("thread {kind}"), "type": kind});
        let threads = format!("/channels/{channel}/threads");
        bot.rest
            .post(&threads, &form)
            .await
            .id()
            .unwrap_or_default()
    };
    let (active, public, private) = (make(11).await, make(11).await, make(12).await);
    for archived in [&public, &private] {
        bot.rest
            .patch(&format!("/channels/{archived}"), &json!({"archived": true}))
            .await;
    }
    for (operation, path, expected) in [
        (
            "get_active_guild_threads",
            format!("/guilds/{}/threads/active", guild.id),
            &active,
        ),
        (
            "list_public_archived_threads",
            format!("/channels/{channel}/threads/archived/public"),
            &public,
        ),
        (
            "list_private_archived_threads",
            format!("/channels/{channel}/threads/archived/private"),
            &private,
        ),
        (
            "list_my_private_archived_threads",
            format!("/channels/{channel}/users/@me/threads/archived/private"),
            &private,
        ),
        (
            "thread_search",
            format!("/channels/{channel}/threads/search?name=thread"),
            &active,
        ),
    ] {
        book.prove(operation, async |p: &mut Proof| {
            let list = p.answers(bot.rest.get(&path).await);
            p.acts(
                list["threads"].to_string().contains(expected.as_str()),
                "it is listed",
            );
            if !operation.contains("my") {
                let seen = member.rest.get(&path).await.body;
                p.acts(
                    !seen.to_string().contains(private.as_str()),
                    "what is private is hidden",
                );
            }
            p.refuses(stranger.rest.get(&path).await, 403, 50001);
        })
        .await;
    }
}
