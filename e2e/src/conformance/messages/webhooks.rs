//! Webhooks, what they say, and channels that follow others.

use serde_json::{Value, json};

use super::{Book, NOTHING, Proof, World, of};
use crate::world::{each, text};

pub(super) async fn prove(world: &World, book: &mut Book) {
    webhooks(world, book).await;
    webhook_messages(world, book).await;
    following(world, book).await;
}

async fn webhooks(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let path = format!("/channels/{}/webhooks", guild.lobby);
    let in_lobby = |d: &Value| d["channel_id"] == guild.lobby.as_str();
    let mut hook = Value::Null;
    book.prove("create_webhook", async |p: &mut Proof| {
        hook = p.answers(bot.rest.post(&path, &json!({"name": "news"})).await);
        p.event(&[owner, bot], "WEBHOOKS_UPDATE", in_lobby).await;
        p.nobody_else(&[stranger], "WEBHOOKS_UPDATE", in_lobby)
            .await;
        p.acts(hook["token"].is_string(), "its token is told");
        p.refuses(
            member.rest.post(&path, &json!({"name": "news"})).await,
            403,
            50013,
        );
        p.faults(
            bot.rest.post(&path, &json!({})).await,
            "name",
            "BASE_TYPE_REQUIRED",
        );
    })
    .await;
    let (id, token) = (text(&hook["id"]), text(&hook["token"]));
    for (operation, list) in [
        ("list_channel_webhooks", path.clone()),
        (
            "get_guild_webhooks",
            format!("/guilds/{}/webhooks", guild.id),
        ),
    ] {
        book.prove(operation, async |p: &mut Proof| {
            let listed = p.answers(bot.rest.get(&list).await);
            p.acts(
                each(&listed).any(|hook| hook["id"] == id.as_str()),
                "it is listed",
            );
            p.refuses(member.rest.get(&list).await, 403, 50013);
            p.refuses(stranger.rest.get(&list).await, 403, 50001);
        })
        .await;
    }
    let one = format!("/webhooks/{id}");
    let with_token = format!("{one}/{token}");
    book.prove("get_webhook", async |p: &mut Proof| {
        let read = p.answers(bot.rest.get(&one).await);
        p.acts(read["name"] == "news", "the name reads");
        p.refuses(member.rest.get(&one).await, 403, 50013);
        p.refuses(
            bot.rest.get(&format!("/webhooks/{NOTHING}")).await,
            404,
            10015,
        );
    })
    .await;
    let nobody = crate::rest::Rest::new(&world.origin);
    book.prove("get_webhook_by_token", async |p: &mut Proof| {
        let read = p.answers(nobody.get(&with_token).await);
        p.acts(
            read["name"] == "news" && read["user"].is_null(),
            "it reads without its maker",
        );
        p.refuses(nobody.get(&format!("{one}/wrong")).await, 401, 50027);
    })
    .await;
    book.prove("update_webhook", async |p: &mut Proof| {
        let changed = p.answers(bot.rest.patch(&one, &json!({"name": "gazette"})).await);
        p.acts(changed["name"] == "gazette", "the name changes");
        p.event(&[owner], "WEBHOOKS_UPDATE", in_lobby).await;
        p.refuses(
            member.rest.patch(&one, &json!({"name": "mine"})).await,
            403,
            50013,
        );
    })
    .await;
    book.prove("update_webhook_by_token", async |p: &mut Proof| {
        let changed = p.answers(nobody.patch(&with_token, &json!({"name": "herald"})).await);
        p.acts(changed["name"] == "herald", "the name changes");
        p.refuses(
            nobody
                .patch(&format!("{one}/wrong"), &json!({"name": "x"}))
                .await,
            401,
            50027,
        );
    })
    .await;
    book.prove("execute_webhook", async |p: &mut Proof| {
        let form = json!({"content": "from afar", "username": "Crier"});
        let said = p.answers(nobody.post(&format!("{with_token}?wait=true"), &form).await);
        let said_id = text(&said["id"]);
        p.acts(
            said["author"]["username"] == "Crier",
            "the name is the request's",
        );
        let event = p
            .event(&[bot, member], "MESSAGE_CREATE", of(&said_id))
            .await;
        p.acts(
            event["webhook_id"] == id.as_str(),
            "the event names the webhook",
        );
        p.nobody_else(&[stranger], "MESSAGE_CREATE", of(&said_id))
            .await;
        p.refuses(
            nobody.post(&format!("{one}/wrong"), &form).await,
            401,
            50027,
        );
        p.refuses(nobody.post(&with_token, &json!({})).await, 400, 50006);
    })
    .await;
    for (operation, form) in [
        (
            "execute_slack_compatible_webhook",
            json!({"text": "slack says", "username": "S"}),
        ),
        (
            "execute_github_compatible_webhook",
            json!({
                "repository": {"full_name": "a/b", "html_url": "https://example.org/a/b", "name": "b", "id": 1},
                "sender": {"login": "someone", "id": 1, "html_url": "https://example.org/s", "avatar_url": "https://example.org/s.png"},
                "ref": "refs/heads/main", "compare": "https://example.org/c",
                "commits": [{"id": "0123456789", "message": "one", "url": "https://example.org/1", "author": {"username": "someone", "name": "Some One"}}],
            }),
        ),
    ] {
        let kind = if operation.contains("slack") {
            "slack"
        } else {
            "github"
        };
        book.prove(operation, async |p: &mut Proof| {
            let request = nobody
                .request(
                    reqwest::Method::POST,
                    &format!("{with_token}/{kind}?wait=true"),
                )
                .header("x-github-event", "push")
                .json(&form);
            p.answers(nobody.answer(request).await);
            let is_it = |d: &Value| {
                d["webhook_id"] == id.as_str()
                    && (d["content"] == "slack says") == (kind == "slack")
                    && (kind == "slack" || d["embeds"][0].is_object())
            };
            p.event(&[bot, member], "MESSAGE_CREATE", is_it).await;
            p.nobody_else(&[stranger], "MESSAGE_CREATE", is_it).await;
            p.refuses(
                nobody.post(&format!("{one}/wrong/{kind}"), &form).await,
                401,
                50027,
            );
        })
        .await;
    }
    book.prove("delete_webhook_by_token", async |p: &mut Proof| {
        p.refuses(nobody.delete(&format!("{one}/wrong")).await, 401, 50027);
        p.answers(nobody.delete(&with_token).await);
        p.acts(nobody.get(&with_token).await.code() == 10015, "it is gone");
        p.event(&[owner], "WEBHOOKS_UPDATE", in_lobby).await;
    })
    .await;
    book.prove("delete_webhook", async |p: &mut Proof| {
        let another = bot.rest.post(&path, &json!({"name": "news"})).await.ok();
        let one = format!("/webhooks/{}", text(&another["id"]));
        p.refuses(member.rest.delete(&one).await, 403, 50013);
        p.answers(bot.rest.delete(&one).await);
        p.acts(bot.rest.get(&one).await.code() == 10015, "it is gone");
        p.event(&[owner], "WEBHOOKS_UPDATE", in_lobby).await;
    })
    .await;
}

async fn webhook_messages(world: &World, book: &mut Book) {
    let [_, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let path = format!("/channels/{}/webhooks", guild.lobby);
    let hook = bot.rest.post(&path, &json!({"name": "editor"})).await.body;
    let nobody = crate::rest::Rest::new(&world.origin);
    let hook = format!("/webhooks/{}/{}", text(&hook["id"]), text(&hook["token"]));
    let said = nobody
        .post(&format!("{hook}?wait=true"), &json!({"content": "first"}))
        .await;
    let id = text(&said.body["id"]);
    let one = format!("{hook}/messages/{id}");
    let other = format!("{hook}/messages/{NOTHING}");
    book.prove("get_webhook_message", async |p: &mut Proof| {
        let read = p.answers(nobody.get(&one).await);
        p.acts(read["content"] == "first", "the content reads");
        p.refuses(nobody.get(&other).await, 404, 10008);
    })
    .await;
    book.prove("update_webhook_message", async |p: &mut Proof| {
        let changed = p.answers(nobody.patch(&one, &json!({"content": "second"})).await);
        p.acts(changed["content"] == "second", "the content changes");
        let is_it = |d: &Value| d["id"] == id.as_str() && d["content"] == "second";
        p.event(&[bot, member], "MESSAGE_UPDATE", is_it).await;
        p.nobody_else(&[stranger], "MESSAGE_UPDATE", is_it).await;
        p.refuses(
            nobody.patch(&other, &json!({"content": "x"})).await,
            404,
            10008,
        );
    })
    .await;
    book.prove("delete_webhook_message", async |p: &mut Proof| {
        p.answers(nobody.delete(&one).await);
        p.event(&[bot, member], "MESSAGE_DELETE", of(&id)).await;
        p.nobody_else(&[stranger], "MESSAGE_DELETE", of(&id)).await;
        p.acts(nobody.get(&one).await.code() == 10008, "it is gone");
        p.refuses(nobody.delete(&other).await, 404, 10008);
    })
    .await;
}

async fn following(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    world.make_community().await;
    let Some(news) = world.channel_of_type(5).await else {
        return;
    };
    let target = world.channel().await;
    book.prove("follow_channel", async |p: &mut Proof| {
        let path = format!("/channels/{news}/followers");
        let form = json!({"webhook_channel_id": target});
        let followed = p.answers(bot.rest.post(&path, &form).await);
        p.acts(followed["webhook_id"].is_string(), "a webhook was made");
        let is_it = |d: &Value| d["channel_id"] == target.as_str() && d["type"] == 12;
        p.event(&[owner, member], "MESSAGE_CREATE", is_it).await;
        p.nobody_else(&[stranger], "MESSAGE_CREATE", is_it).await;
        p.refuses(member.rest.post(&path, &form).await, 403, 50013);
    })
    .await;
    book.prove("crosspost_message", async |p: &mut Proof| {
        let message = bot.account.say(&news, "extra, extra").await;
        let path = format!("/channels/{news}/messages/{message}/crosspost");
        let posted = p.answers(bot.rest.post_empty(&path).await);
        p.acts(
            posted["flags"].as_u64().is_some_and(|flags| flags & 1 == 1),
            "it is marked",
        );
        let copied =
            |d: &Value| d["channel_id"] == target.as_str() && d["content"] == "extra, extra";
        p.event(&[owner, member], "MESSAGE_CREATE", copied).await;
        p.nobody_else(&[stranger], "MESSAGE_CREATE", copied).await;
        p.refuses(bot.rest.post_empty(&path).await, 400, 40033);
        p.refuses(stranger.rest.post_empty(&path).await, 403, 50001);
    })
    .await;
}
