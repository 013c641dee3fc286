//! Applications, OAuth2, commands, interactions.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Book, NOTHING, Person, Proof, World};
use crate::{
    rest::{Reply, Rest},
    world::{each, random_word, text},
};

pub(super) async fn prove(world: &World, book: &mut Book) {
    own_application(world, book).await;
    owners_applications(world, book).await;
    commands(world, book).await;
    permissions(world, book).await;
    interactions(world, book).await;
    follow_ups(world, book).await;
    grants(world, book).await;
}

async fn own_application(world: &World, book: &mut Book) {
    let World { bot, member, .. } = world;
    let by_id = format!("/applications/{}", bot.id);
    for (operation, path) in [
        ("get_my_application", "/applications/@me"),
        ("get_my_oauth2_application", "/oauth2/applications/@me"),
        ("get_application", by_id.as_str()),
    ] {
        book.prove(operation, async |p: &mut Proof| {
            let read = p.answers(bot.rest.get(path).await);
            p.acts(read["id"] == bot.id.as_str(), "it is the bot's own");
            match operation {
                "get_application" => {
                    let other = bot.rest.get(&format!("/applications/{NOTHING}")).await;
                    p.refuses(other, 404, 10002);
                }
                _ => p.refuses(member.rest.get(path).await, 403, 20002),
            }
        })
        .await;
    }
    for (operation, path) in [
        ("update_my_application", "/applications/@me"),
        ("update_application", by_id.as_str()),
    ] {
        book.prove(operation, async |p: &mut Proof| {
            let words = random_word();
            let form = json!({"description": words, "tags": ["fun"]});
            let changed = p.answers(bot.rest.patch(path, &form).await);
            p.acts(
                changed["description"] == words.as_str(),
                "the description changes",
            );
            let long = json!({"description": "x".repeat(401)});
            p.faults(
                bot.rest.patch(path, &long).await,
                "description",
                "BASE_TYPE_MAX_LENGTH",
            );
        })
        .await;
    }
}

async fn owners_applications(world: &World, book: &mut Book) {
    let World { owner, member, .. } = world;
    let mut id = String::new();
    book.prove("application_create", async |p: &mut Proof| {
        let name = format!("app.{}", random_word());
        let made = p.answers(
            owner
                .rest
                .post("/applications", &json!({"name": name}))
                .await,
        );
        id = text(&made["id"]);
        p.acts(made["name"] == name.as_str(), "the name reads");
        p.faults(
            owner.rest.post("/applications", &json!({})).await,
            "name",
            "BASE_TYPE_REQUIRED",
        );
    })
    .await;
    let one = format!("/applications/{id}");
    book.prove("applications_list", async |p: &mut Proof| {
        let list = p.answers(owner.rest.get("/applications").await);
        p.acts(list.to_string().contains(&id), "it is listed");
        p.refuses_no_more();
    })
    .await;
    book.prove("application_public", async |p: &mut Proof| {
        let read = p.answers(member.rest.get(&format!("{one}/public")).await);
        p.acts(read["id"] == id.as_str(), "it is the one");
        p.refuses(
            member
                .rest
                .get(&format!("/applications/{NOTHING}/public"))
                .await,
            404,
            10002,
        );
    })
    .await;
    book.prove("application_bot_create", async |p: &mut Proof| {
        let path = format!("{one}/bot");
        p.refuses(member.rest.post(&path, &json!({})).await, 403, 20012);
        let made = p.answers(owner.rest.post(&path, &json!({})).await);
        let bot = Rest::new(&world.origin).with_token(&format!("Bot {}", text(&made["token"])));
        let me = bot.get("/users/@me").await.body;
        p.acts(me["bot"] == true, "the token is a bot's");
        let again = owner.rest.post(&path, &json!({})).await;
        p.refuses(again, 400, 0);
    })
    .await;
    book.prove("application_bot_update", async |p: &mut Proof| {
        let name = format!("bot.{}", random_word());
        let form = json!({"username": name});
        let changed = p.answers(owner.rest.patch(&format!("{one}/bot"), &form).await);
        p.acts(changed["username"] == name.as_str(), "the name changes");
        p.refuses(
            member.rest.patch(&format!("{one}/bot"), &form).await,
            403,
            20012,
        );
    })
    .await;
    book.prove("application_bot_reset", async |p: &mut Proof| {
        let path = format!("{one}/bot/reset");
        let first = text(&p.answers(owner.rest.post(&path, &json!({})).await)["token"]);
        owner.rest.post(&path, &json!({})).await.ok();
        let old = Rest::new(&world.origin).with_token(&format!("Bot {first}"));
        p.acts(
            old.get("/users/@me").await.status == 401,
            "the older token is dead",
        );
        p.refuses(member.rest.post(&path, &json!({})).await, 403, 20012);
    })
    .await;
    book.prove("application_secret_reset", async |p: &mut Proof| {
        let path = format!("{one}/reset");
        let secret = p.answers(owner.rest.post(&path, &json!({})).await);
        p.acts(secret["secret"].is_string(), "the secret is told");
        p.refuses(member.rest.post(&path, &json!({})).await, 403, 20012);
    })
    .await;
    book.prove("application_delete", async |p: &mut Proof| {
        let path = format!("{one}/delete");
        p.refuses(member.rest.post(&path, &json!({})).await, 403, 20012);
        p.answers(owner.rest.post(&path, &json!({})).await);
        let list = owner.rest.get("/applications").await.body;
        p.acts(!list.to_string().contains(&id), "it is not listed");
    })
    .await;
}

/// Operations of global and of guild commands differ in their names and paths alone.
async fn commands(world: &World, book: &mut Book) {
    let World {
        bot, member, guild, ..
    } = world;
    for (of, path) in [
        ("application", format!("/applications/{}/commands", bot.id)),
        (
            "guild_application",
            format!("/applications/{}/guilds/{}/commands", bot.id, guild.id),
        ),
    ] {
        let elsewhere = format!("/applications/{NOTHING}/commands");
        let form = json!({"name": "greet", "description": "says hello"});
        let mut id = String::new();
        let name = format!("create_{of}_command");
        book.prove(&name, async |p: &mut Proof| {
            let made = p.answers(bot.rest.post(&path, &form).await);
            id = text(&made["id"]);
            let again = bot.rest.post(&path, &form).await;
            p.acts(
                again.body["id"] == id.as_str(),
                "the same name is the same command",
            );
            p.refuses(bot.rest.post(&elsewhere, &form).await, 403, 20012);
            let bad = json!({"name": "Bad Name", "description": "x"});
            p.faults(
                bot.rest.post(&path, &bad).await,
                "name",
                "APPLICATION_COMMAND_INVALID_NAME",
            );
        })
        .await;
        let one = format!("{path}/{id}");
        let other = format!("{path}/{NOTHING}");
        book.prove(&format!("get_{of}_command"), async |p: &mut Proof| {
            let read = p.answers(bot.rest.get(&one).await);
            p.acts(read["name"] == "greet", "the name reads");
            p.refuses(bot.rest.get(&other).await, 404, 10063);
        })
        .await;
        book.prove(&format!("list_{of}_commands"), async |p: &mut Proof| {
            let list = p.answers(bot.rest.get(&path).await);
            p.acts(list[0]["id"] == id.as_str(), "it is listed");
            p.refuses(member.rest.get(&path).await, 403, 20002);
        })
        .await;
        book.prove(&format!("update_{of}_command"), async |p: &mut Proof| {
            let changed = p.answers(bot.rest.patch(&one, &json!({"description": "waves"})).await);
            p.acts(changed["description"] == "waves", "the description changes");
            p.refuses(
                bot.rest.patch(&other, &json!({"description": "x"})).await,
                404,
                10063,
            );
        })
        .await;
        book.prove(&format!("delete_{of}_command"), async |p: &mut Proof| {
            p.answers(bot.rest.delete(&one).await);
            p.acts(bot.rest.get(&one).await.code() == 10063, "it is gone");
            p.refuses(bot.rest.delete(&one).await, 404, 10063);
        })
        .await;
        book.prove(&format!("bulk_set_{of}_commands"), async |p: &mut Proof| {
            let set = json!([form, {"name": "Look", "type": 2}]);
            let made = p.answers(bot.rest.put(&path, &set).await);
            p.acts(made.as_array().map(Vec::len) == Some(2), "both are there");
            let list = bot.rest.get(&path).await.body;
            p.acts(list.as_array().map(Vec::len) == Some(2), "both are listed");
            let bad = json!([{"name": "ok", "description": ""}]);
            p.faults(
                bot.rest.put(&path, &bad).await,
                "0.description",
                "BASE_TYPE_REQUIRED",
            );
        })
        .await;
    }
    for (operation, path) in [
        (
            "guild_command_index",
            format!("/guilds/{}/application-command-index", guild.id),
        ),
        (
            "channel_command_index",
            format!("/channels/{}/application-command-index", guild.lobby),
        ),
    ] {
        book.prove(operation, async |p: &mut Proof| {
            let index = p.answers(member.rest.get(&path).await);
            p.acts(
                index["application_commands"].to_string().contains("greet"),
                "it is listed",
            );
            p.refuses(world.stranger.rest.get(&path).await, 403, 50001);
        })
        .await;
    }
}

async fn permissions(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let commands = format!("/applications/{}/guilds/{}/commands", bot.id, guild.id);
    let made = bot
        .rest
        .post(&commands, &json!({"name": "secret", "description": "x"}))
        .await
        .body;
    let id = text(&made["id"]);
    let one = format!("{commands}/{id}/permissions");
    book.prove(
        "set_guild_application_command_permissions",
        async |p: &mut Proof| {
            let form = json!({"permissions": [{"id": member.id, "type": 2, "permission": false}]});
            let set = p.answers(owner.rest.put(&one, &form).await);
            p.acts(set["permissions"][0]["permission"] == false, "it is denied");
            let is_it = |d: &Value| d["id"] == id.as_str();
            p.event(&[bot], "APPLICATION_COMMAND_PERMISSIONS_UPDATE", is_it)
                .await;
            p.refuses(member.rest.put(&one, &form).await, 403, 50013);
        },
    )
    .await;
    book.prove(
        "get_guild_application_command_permissions",
        async |p: &mut Proof| {
            let read = p.answers(bot.rest.get(&one).await);
            p.acts(
                read["permissions"][0]["id"] == member.id.as_str(),
                "it reads",
            );
            let other = format!("{commands}/{NOTHING}/permissions");
            p.refuses(bot.rest.get(&other).await, 404, 10063);
        },
    )
    .await;
    book.prove(
        "list_guild_application_command_permissions",
        async |p: &mut Proof| {
            let list = p.answers(bot.rest.get(&format!("{commands}/permissions")).await);
            p.acts(list.to_string().contains(&id), "it is listed");
            p.refuses(
                stranger.rest.get(&format!("{commands}/permissions")).await,
                403,
                50001,
            );
        },
    )
    .await;
}

/// Invokes `greet` of the guild as `who`.
async fn invoke(world: &World, who: &Person, nonce: &str) -> Reply {
    let path = format!(
        "/applications/{}/guilds/{}/commands",
        world.bot.id, world.guild.id
    );
    let list = world.bot.rest.get(&path).await.body;
    let greet = each(&list).find(|command| command["name"] == "greet");
    let greet = greet.cloned().unwrap_or_default();
    let form = json!({
        "type": 2, "application_id": world.bot.id, "guild_id": world.guild.id,
        "channel_id": world.guild.lobby, "session_id": who.session.session_id(), "nonce": nonce,
        "data": {"version": greet["version"], "id": greet["id"], "name": "greet", "type": 1,
                 "guild_id": greet["guild_id"], "options": [], "attachments": []},
    });
    who.rest.post("/interactions", &form).await
}

/// The interaction as the bot got it.
async fn received(world: &World) -> Value {
    let mut newest = Value::Null;
    let log = world.bot.session.log();
    if let Some(dispatch) = log.named("INTERACTION_CREATE").next_back() {
        newest = dispatch.d().clone();
    }
    newest
}

async fn interactions(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let nobody = Rest::new(&world.origin);
    book.prove("interaction_create", async |p: &mut Proof| {
        p.answers(invoke(world, member, "n1").await);
        let is_it = |d: &Value| d["data"]["name"] == "greet";
        let event = p.event(&[bot], "INTERACTION_CREATE", is_it).await;
        p.acts(
            event["member"]["user"]["id"] == member.id.as_str(),
            "the caller is told",
        );
        p.event(&[member], "INTERACTION_CREATE", |d| d["nonce"] == "n1")
            .await;
        p.nobody_else(&[owner, stranger], "INTERACTION_CREATE", |_| true)
            .await;
        p.refuses(invoke(world, stranger, "n2").await, 403, 50001);
    })
    .await;
    book.prove("create_interaction_response", async |p: &mut Proof| {
        let interaction = received(world).await;
        let (id, token) = (text(&interaction["id"]), text(&interaction["token"]));
        let path = format!("/interactions/{id}/{token}/callback");
        let form = json!({"type": 4, "data": {"content": "hello you"}});
        p.refuses(
            nobody
                .post(&format!("/interactions/{id}/wrong/callback"), &form)
                .await,
            404,
            10062,
        );
        p.answers(
            nobody
                .post(&format!("{path}?with_response=true"), &form)
                .await,
        );
        let said = |d: &Value| {
            d["content"] == "hello you" && d["interaction_metadata"]["id"] == id.as_str()
        };
        p.event(&[bot, owner, member], "MESSAGE_CREATE", said).await;
        p.nobody_else(&[stranger], "MESSAGE_CREATE", said).await;
        p.event(&[member], "INTERACTION_SUCCESS", |d| d["id"] == id.as_str())
            .await;
        p.refuses(nobody.post(&path, &form).await, 400, 40060);
    })
    .await;
}

async fn follow_ups(world: &World, book: &mut Book) {
    let [_, member, stranger, bot] = world.people();
    let nobody = Rest::new(&world.origin);
    let interaction = received(world).await;
    let Some(token) = interaction["token"].as_str() else {
        return;
    };
    let hook = format!("/webhooks/{}/{token}", bot.id);
    let original = format!("{hook}/messages/@original");
    let wrong = format!("/webhooks/{}/wrong/messages/@original", bot.id);
    book.prove("get_original_webhook_message", async |p: &mut Proof| {
        let read = p.answers(nobody.get(&original).await);
        p.acts(read["content"] == "hello you", "the content reads");
        p.refuses(nobody.get(&wrong).await, 401, 50027);
    })
    .await;
    book.prove("update_original_webhook_message", async |p: &mut Proof| {
        let changed = p.answers(
            nobody
                .patch(&original, &json!({"content": "hello all"}))
                .await,
        );
        p.acts(changed["content"] == "hello all", "the content changes");
        p.event(&[bot, member], "MESSAGE_UPDATE", |d| {
            d["content"] == "hello all"
        })
        .await;
        p.refuses(
            nobody.patch(&wrong, &json!({"content": "x"})).await,
            401,
            50027,
        );
    })
    .await;
    book.prove("delete_original_webhook_message", async |p: &mut Proof| {
        let id = nobody.get(&original).await.body["id"].clone();
        p.answers(nobody.delete(&original).await);
        p.event(&[bot, member], "MESSAGE_DELETE", |d| d["id"] == id)
            .await;
        p.nobody_else(&[stranger], "MESSAGE_DELETE", |d| d["id"] == id)
            .await;
        p.acts(nobody.get(&original).await.code() == 10008, "it is gone");
        p.refuses(nobody.delete(&wrong).await, 401, 50027);
    })
    .await;
}

/// Sends a form as OAuth2 clients do.
async fn send_form(rest: &Rest, path: &str, form: &[(&str, &str)]) -> Reply {
    let pairs: Vec<String> = form
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let request = rest
        .request(Method::POST, path)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(pairs.join("&"));
    rest.answer(request).await
}

async fn grants(world: &World, book: &mut Book) {
    let [owner, member, _, bot] = world.people();
    let guild = &world.guild;
    let nobody = Rest::new(&world.origin);
    let id = bot.id.clone();
    let redirect = "https://example.org/back";
    owner
        .rest
        .patch(
            &format!("/applications/{id}"),
            &json!({"redirect_uris": [redirect]}),
        )
        .await;
    let secret = owner
        .rest
        .post(&format!("/applications/{id}/reset"), &json!({}))
        .await
        .body;
    let Some(secret) = secret["secret"].as_str().map(str::to_owned) else {
        return;
    };
    let guest = world.newcomer().await;
    let query = format!(
        "/oauth2/authorize?client_id={id}&response_type=code&scope=identify%20guilds%20guilds.join&redirect_uri=https%3A%2F%2Fexample.org%2Fback"
    );
    book.prove("oauth_authorize_preview", async |p: &mut Proof| {
        let preview = p.answers(guest.rest.get(&query).await);
        p.acts(
            preview["application"]["id"] == id.as_str(),
            "the application is told",
        );
        p.refuses(
            guest
                .rest
                .get(&format!("/oauth2/authorize?client_id={NOTHING}&scope=bot"))
                .await,
            404,
            10002,
        );
    })
    .await;
    let mut code = String::new();
    book.prove("oauth_authorize", async |p: &mut Proof| {
        let answer = p.answers(guest.rest.post(&query, &json!({"authorize": true})).await);
        let location = text(&answer["location"]);
        code = location
            .split("code=")
            .nth(1)
            .unwrap_or_default()
            .split('&')
            .next()
            .unwrap_or_default()
            .to_owned();
        p.acts(!code.is_empty(), "there is a code");
        let form = json!({"authorize": true, "guild_id": guild.id, "permissions": "0"});
        let add = format!("/oauth2/authorize?client_id={id}&scope=bot&permissions=0");
        p.refuses(member.rest.post(&add, &form).await, 403, 50013);
    })
    .await;
    let mut access = Value::Null;
    book.prove("oauth_token", async |p: &mut Proof| {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code.as_str()),
            ("redirect_uri", redirect),
            ("client_id", id.as_str()),
            ("client_secret", secret.as_str()),
        ];
        access = p.answers(send_form(&nobody, "/oauth2/token", &form).await);
        let again = send_form(&nobody, "/oauth2/token", &form).await;
        p.acts(
            again.status == 400 && again.body["error"] == "invalid_grant",
            "a code is used once",
        );
        p.refuses_no_more();
    })
    .await;
    let Some(token) = access["access_token"].as_str() else {
        return;
    };
    let bearer = nobody.with_token(&format!("Bearer {token}"));
    book.prove("get_my_oauth2_authorization", async |p: &mut Proof| {
        let read = p.answers(bearer.get("/oauth2/@me").await);
        p.acts(read["user"]["id"] == guest.id.as_str(), "the user is told");
        p.refuses_no_more();
    })
    .await;
    book.prove("add_guild_member", async |p: &mut Proof| {
        let path = format!("/guilds/{}/members/{}", guild.id, guest.id);
        let form = json!({"access_token": token});
        p.answers(bot.rest.put(&path, &form).await);
        let is_it = |d: &Value| d["user"]["id"] == guest.id.as_str();
        p.event(&[bot], "GUILD_MEMBER_ADD", is_it).await;
        p.acts(
            bot.rest.get(&path).await.status == 200,
            "the guest is a member",
        );
        let wrong = json!({"access_token": "wrong"});
        p.refuses(
            bot.rest
                .put(
                    &format!("/guilds/{}/members/{}", guild.id, world.stranger.id),
                    &wrong,
                )
                .await,
            403,
            50025,
        );
    })
    .await;
    let mut grant = Value::Null;
    book.prove("oauth_grants", async |p: &mut Proof| {
        let list = p.answers(guest.rest.get("/oauth2/tokens").await);
        grant = list[0]["id"].clone();
        p.acts(
            list[0]["application"]["id"] == id.as_str(),
            "the grant is listed",
        );
        p.refuses_no_more();
    })
    .await;
    book.prove("oauth_grant_delete", async |p: &mut Proof| {
        p.answers(
            guest
                .rest
                .delete(&format!("/oauth2/tokens/{}", text(&grant)))
                .await,
        );
        p.acts(
            bearer.get("/oauth2/@me").await.status == 401,
            "the token is dead",
        );
        p.refuses_no_more();
    })
    .await;
    book.prove("oauth_token_revoke", async |p: &mut Proof| {
        let form = [
            ("grant_type", "client_credentials"),
            ("scope", "identify"),
            ("client_id", id.as_str()),
            ("client_secret", secret.as_str()),
        ];
        let own = send_form(&nobody, "/oauth2/token", &form).await.body;
        let token = text(&own["access_token"]);
        let form = [
            ("token", token.as_str()),
            ("client_id", id.as_str()),
            ("client_secret", secret.as_str()),
        ];
        p.answers(send_form(&nobody, "/oauth2/token/revoke", &form).await);
        let dead = nobody.with_token(&format!("Bearer {token}"));
        p.acts(
            dead.get("/oauth2/@me").await.status == 401,
            "the token is dead",
        );
        p.refuses_no_more();
    })
    .await;
}
