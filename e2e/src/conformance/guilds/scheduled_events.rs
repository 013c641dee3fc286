//! Scheduled events and their exceptions.

use std::{sync::LazyLock, time::Duration};

use guildhall_shared::Timestamp;
use serde_json::{Value, json};

use super::{Book, NOTHING, Proof, World};
use crate::world::text;

pub(super) async fn prove(world: &World, book: &mut Book) {
    scheduled_events(world, book).await;
    event_exceptions(world, book).await;
}

async fn scheduled_events(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
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
        p.refuses(stranger.rest.post(&path, &form).await, 403, 50001);
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
pub(super) fn in_days(days: u64) -> Value {
    static NOW: LazyLock<Timestamp> = LazyLock::new(Timestamp::now);
    json!(Timestamp(NOW.0 + Duration::from_secs(days * 86_400)))
}

async fn event_exceptions(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let path = format!("/guilds/{}/scheduled-events", guild.id);
    let start = in_days(2);
    let form = json!({
        "name": "weekly", "privacy_level": 2, "entity_type": 3, "entity_metadata": {"location": "here"},
        "scheduled_start_time": start, "scheduled_end_time": in_days(3),
        "recurrence_rule": {"start": start, "frequency": 3, "interval": 1},
    });
    let Some(id) = bot.rest.post(&path, &form).await.id() else {
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
