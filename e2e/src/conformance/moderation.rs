//! Bans, prune, audit log, automod, incident actions.

use serde_json::{Value, json};

use super::{Book, NOTHING, Proof, World};
use crate::world::{random_word, text};

pub(super) async fn prove(world: &World, book: &mut Book) {
    bans(world, book).await;
    prune(world, book).await;
    audit_log(world, book).await;
    automod(world, book).await;
    incidents(world, book).await;
}

async fn bans(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let path = format!("/guilds/{}/bans", guild.id);
    let guest_account = world.guest().await;
    let guest_id = guest_account.id.clone();
    let one = format!("{path}/{guest_id}");
    let of_guest = |d: &Value| d["user"]["id"] == guest_id.as_str();
    book.prove("ban_user_from_guild", async |p: &mut Proof| {
        let said = guest_account.say(&guild.lobby, "rude").await;
        p.refuses(member.rest.put(&one, &json!({})).await, 403, 50013);
        p.answers(
            bot.rest
                .put(&one, &json!({"delete_message_seconds": 3600}))
                .await,
        );
        p.event(&[owner, bot], "GUILD_BAN_ADD", of_guest).await;
        p.event(&[bot], "GUILD_MEMBER_REMOVE", of_guest).await;
        p.nobody_else(&[member, stranger], "GUILD_BAN_ADD", of_guest)
            .await;
        // After the answer, in steps.
        let of_said = |d: &Value| {
            let ids = d["ids"].as_array();
            ids.is_some_and(|ids| ids.iter().any(|id| *id == said))
        };
        p.event(&[owner, bot], "MESSAGE_DELETE_BULK", of_said).await;
        let gone = bot
            .rest
            .get(&format!("/channels/{}/messages/{said}", guild.lobby))
            .await;
        p.acts(gone.code() == 10008, "the messages are gone");
        p.refuses(
            bot.rest.put(&format!("{path}/{NOTHING}"), &json!({})).await,
            404,
            10013,
        );
        p.refuses(
            bot.rest
                .put(&format!("{path}/{}", owner.id), &json!({}))
                .await,
            403,
            50013,
        );
    })
    .await;
    book.prove("get_guild_ban", async |p: &mut Proof| {
        let ban = p.answers(bot.rest.get(&one).await);
        p.acts(ban["user"]["id"] == guest_id.as_str(), "the ban reads");
        p.refuses(
            bot.rest.get(&format!("{path}/{}", member.id)).await,
            404,
            10026,
        );
        p.refuses(member.rest.get(&one).await, 403, 50013);
    })
    .await;
    book.prove("list_guild_bans", async |p: &mut Proof| {
        let list = p.answers(bot.rest.get(&path).await);
        p.acts(
            list[0]["user"]["id"] == guest_id.as_str(),
            "the ban is listed",
        );
        p.refuses(member.rest.get(&path).await, 403, 50013);
        p.faults(
            bot.rest.get(&format!("{path}?limit=1001")).await,
            "limit",
            "NUMBER_TYPE_MAX",
        );
    })
    .await;
    book.prove("ban_search", async |p: &mut Proof| {
        let query = &guest_account.name[..8];
        let found = p.answers(
            owner
                .rest
                .get(&format!("{path}/search?query={query}"))
                .await,
        );
        p.acts(found.to_string().contains(&guest_id), "the ban is found");
        p.refuses(
            member
                .rest
                .get(&format!("{path}/search?query={query}"))
                .await,
            403,
            50013,
        );
    })
    .await;
    book.prove("unban_user_from_guild", async |p: &mut Proof| {
        p.refuses(member.rest.delete(&one).await, 403, 50013);
        p.answers(bot.rest.delete(&one).await);
        p.event(&[owner, bot], "GUILD_BAN_REMOVE", of_guest).await;
        p.nobody_else(&[member, stranger], "GUILD_BAN_REMOVE", of_guest)
            .await;
        p.acts(bot.rest.get(&one).await.code() == 10026, "the ban is gone");
        p.refuses(bot.rest.delete(&one).await, 404, 10026);
    })
    .await;
    book.prove("bulk_ban_users_from_guild", async |p: &mut Proof| {
        let second = world.guest().await;
        let bulk = format!("/guilds/{}/bulk-ban", guild.id);
        let form = json!({"user_ids": [second.id, owner.id]});
        p.refuses(member.rest.post(&bulk, &form).await, 403, 50013);
        let result = p.answers(bot.rest.post(&bulk, &form).await);
        p.acts(
            result["banned_users"] == json!([second.id]),
            "the guest is banned",
        );
        p.acts(
            result["failed_users"] == json!([owner.id]),
            "the owner is not",
        );
        let is_it = |d: &Value| d["user"]["id"] == second.id.as_str();
        p.event(&[owner, bot], "GUILD_BAN_ADD", is_it).await;
        p.nobody_else(&[member, stranger], "GUILD_BAN_ADD", is_it)
            .await;
        p.refuses(
            bot.rest.post(&bulk, &json!({"user_ids": [owner.id]})).await,
            400,
            500_000,
        );
    })
    .await;
}

async fn prune(world: &World, book: &mut Book) {
    let [_, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let path = format!("/guilds/{}/prune", guild.id);
    book.prove("preview_prune_guild", async |p: &mut Proof| {
        let preview = p.answers(bot.rest.get(&format!("{path}?days=7")).await);
        p.acts(preview["pruned"] == 0, "everybody was here lately");
        p.refuses(member.rest.get(&path).await, 403, 50013);
        p.faults(
            bot.rest.get(&format!("{path}?days=31")).await,
            "days",
            "NUMBER_TYPE_MAX",
        );
    })
    .await;
    book.prove("prune_guild", async |p: &mut Proof| {
        let pruned = p.answers(bot.rest.post(&path, &json!({"days": 30})).await);
        p.acts(pruned["pruned"] == 0, "nobody was away for so long");
        p.refuses(
            member.rest.post(&path, &json!({"days": 7})).await,
            403,
            50013,
        );
        p.refuses(
            stranger.rest.post(&path, &json!({"days": 7})).await,
            403,
            50001,
        );
        p.faults(
            bot.rest.post(&path, &json!({"days": 0})).await,
            "days",
            "NUMBER_TYPE_MIN",
        );
    })
    .await;
}

async fn audit_log(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let path = format!("/guilds/{}/audit-logs", guild.id);
    book.prove("list_guild_audit_log_entries", async |p: &mut Proof| {
        let name = random_word();
        let roles = format!("/guilds/{}/roles", guild.id);
        let request = bot.rest.request(reqwest::Method::POST, &roles);
        let request = request
            .header("x-audit-log-reason", "because%20so")
            .json(&json!({"name": name}));
        let role = text(&bot.rest.answer(request).await.ok()["id"]);
        let is_it = |d: &Value| d["target_id"] == role.as_str() && d["action_type"] == 30;
        let event = p
            .event(&[owner, bot], "GUILD_AUDIT_LOG_ENTRY_CREATE", is_it)
            .await;
        p.acts(
            event["reason"] == "because so",
            "the event gives the reason",
        );
        p.nobody_else(&[member, stranger], "GUILD_AUDIT_LOG_ENTRY_CREATE", is_it)
            .await;
        let log = p.answers(
            bot.rest
                .get(&format!("{path}?action_type=30&limit=1"))
                .await,
        );
        let entry = &log["audit_log_entries"][0];
        p.acts(
            is_it(entry) && entry["user_id"] == bot.id.as_str(),
            "the entry is listed",
        );
        p.acts(
            log["users"].to_string().contains(&bot.id),
            "its actor is listed",
        );
        p.refuses(member.rest.get(&path).await, 403, 50013);
        p.refuses(stranger.rest.get(&path).await, 403, 50001);
        p.faults(
            bot.rest.get(&format!("{path}?limit=101")).await,
            "limit",
            "NUMBER_TYPE_MAX",
        );
    })
    .await;
}

async fn automod(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let path = format!("/guilds/{}/auto-moderation/rules", guild.id);
    let word = random_word();
    let form = json!({
        "name": "no words", "event_type": 1, "trigger_type": 1, "enabled": true,
        "trigger_metadata": {"keyword_filter": [word]},
        "actions": [{"type": 1, "metadata": {}}],
    });
    let mut id = String::new();
    let of_rule = |id: &str| {
        let id = id.to_owned();
        move |d: &Value| d["id"] == id.as_str()
    };
    book.prove("create_auto_moderation_rule", async |p: &mut Proof| {
        let rule = p.answers(bot.rest.post(&path, &form).await);
        id = text(&rule["id"]);
        p.event(&[owner, bot], "AUTO_MODERATION_RULE_CREATE", of_rule(&id))
            .await;
        p.nobody_else(
            &[member, stranger],
            "AUTO_MODERATION_RULE_CREATE",
            of_rule(&id),
        )
        .await;
        let say = json!({"content": format!("this {word} that")});
        let blocked = member
            .rest
            .post(&format!("/channels/{}/messages", guild.lobby), &say)
            .await;
        p.acts(blocked.code() == 200_000, "the word is blocked");
        let acted = |d: &Value| d["rule_id"] == id.as_str() && d["user_id"] == member.id.as_str();
        p.event(&[owner, bot], "AUTO_MODERATION_ACTION_EXECUTION", acted)
            .await;
        p.nobody_else(
            &[member, stranger],
            "AUTO_MODERATION_ACTION_EXECUTION",
            acted,
        )
        .await;
        p.refuses(member.rest.post(&path, &form).await, 403, 50013);
        p.faults(
            bot.rest
                .post(
                    &path,
                    &json!({"event_type": 1, "trigger_type": 1, "actions": []}),
                )
                .await,
            "name",
            "BASE_TYPE_REQUIRED",
        );
    })
    .await;
    let one = format!("{path}/{id}");
    book.prove("get_auto_moderation_rule", async |p: &mut Proof| {
        let rule = p.answers(bot.rest.get(&one).await);
        p.acts(rule["name"] == "no words", "the name reads");
        p.refuses(member.rest.get(&one).await, 403, 50013);
        p.refuses(bot.rest.get(&format!("{path}/{NOTHING}")).await, 404, 0);
    })
    .await;
    book.prove("list_auto_moderation_rules", async |p: &mut Proof| {
        let list = p.answers(bot.rest.get(&path).await);
        p.acts(list.to_string().contains(&id), "it is listed");
        p.refuses(member.rest.get(&path).await, 403, 50013);
    })
    .await;
    book.prove("update_auto_moderation_rule", async |p: &mut Proof| {
        let rule = p.answers(bot.rest.patch(&one, &json!({"name": "words"})).await);
        p.acts(rule["name"] == "words", "the name changes");
        let is_it = |d: &Value| d["id"] == id.as_str() && d["name"] == "words";
        p.event(&[owner, bot], "AUTO_MODERATION_RULE_UPDATE", is_it)
            .await;
        p.nobody_else(&[member, stranger], "AUTO_MODERATION_RULE_UPDATE", is_it)
            .await;
        p.refuses(
            member.rest.patch(&one, &json!({"name": "x"})).await,
            403,
            50013,
        );
        p.refuses(
            bot.rest
                .patch(&format!("{path}/{NOTHING}"), &json!({"name": "x"}))
                .await,
            404,
            0,
        );
    })
    .await;
    book.prove("delete_auto_moderation_rule", async |p: &mut Proof| {
        p.refuses(member.rest.delete(&one).await, 403, 50013);
        p.answers(bot.rest.delete(&one).await);
        p.event(&[owner, bot], "AUTO_MODERATION_RULE_DELETE", of_rule(&id))
            .await;
        p.nobody_else(
            &[member, stranger],
            "AUTO_MODERATION_RULE_DELETE",
            of_rule(&id),
        )
        .await;
        p.acts(bot.rest.get(&one).await.status == 404, "it is gone");
        p.refuses(bot.rest.delete(&one).await, 404, 0);
    })
    .await;
}

async fn incidents(world: &World, book: &mut Book) {
    let World {
        owner, member, bot, ..
    } = world;
    let place = world.another_guild().await;
    let path = format!("/guilds/{}/incident-actions", place.id);
    book.prove("update_guild_incident_actions", async |p: &mut Proof| {
        let soon = guildhall_shared::Timestamp::now().0 + std::time::Duration::from_secs(3600);
        let soon = json!(guildhall_shared::Timestamp(soon));
        let form = json!({"invites_disabled_until": soon, "dms_disabled_until": null});
        let answer = p.answers(owner.rest.put(&path, &form).await);
        p.acts(
            answer["invites_disabled_until"].is_string(),
            "the end reads",
        );
        let is_it = |d: &Value| d["id"] == place.id.as_str() && d["incidents_data"].is_object();
        p.event(&[bot, member], "GUILD_UPDATE", is_it).await;
        p.refuses(member.rest.put(&path, &form).await, 403, 50013);
    })
    .await;
}
