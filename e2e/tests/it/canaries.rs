//! Tokens, passwords and what people write are found in no log, no metric and no error,
//! whatever goes wrong with the requests that carry them.

use e2e::{
    client::{self, Client},
    cluster::{Cluster, Options, Use},
    session::Session,
    world::{self, Account, INTENTS, random_word, text},
};
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::{Value, json};

/// What must be seen nowhere, and the bodies of errors.
#[derive(Default)]
struct Watch {
    canaries: Vec<(&'static str, String)>,
    errors: Vec<String>,
}

impl Watch {
    /// A word that nobody else uses.
    fn word(&mut self, what: &'static str) -> String {
        let word = format!("canary{}{}", random_word(), random_word());
        self.secret(what, &word)
    }

    fn secret(&mut self, what: &'static str, secret: &str) -> String {
        assert!(secret.len() > 8, "{what} is too short to be looked for");
        self.canaries.push((what, secret.to_owned()));
        secret.to_owned()
    }

    fn error(&mut self, reply: e2e::rest::Reply) {
        assert!(reply.status >= 400, "{}", reply.body);
        self.errors.push(reply.body.to_string());
    }

    fn assert_absent(&self, place: &str, text: &str) {
        for (what, canary) in &self.canaries {
            let found = text.lines().find(|line| line.contains(canary));
            assert!(found.is_none(), "{what} in {place}: {found:?}");
        }
    }

    async fn assert_absent_everywhere(&self, cluster: &Cluster) {
        let servers = cluster.apis.iter().map(|api| &api.server);
        let gateways = cluster.gateways.iter().map(|gateway| &gateway.server);
        for server in servers.chain(gateways).chain([&cluster.coordinator]) {
            let log = server.log_text();
            assert!(log.lines().count() > 3, "{} logs nothing", server.name());
            self.assert_absent(&format!("the log of {}", server.name()), &log);
            let metrics = server.metrics().await.unwrap();
            assert!(metrics.contains("# TYPE"), "{metrics}");
            self.assert_absent(&format!("the metrics of {}", server.name()), &metrics);
        }
        for error in &self.errors {
            self.assert_absent("an error", error);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_and_texts_are_in_no_log_no_metric_and_no_error() {
    let cluster = Use::own(Options {
        log: Some("trace,hyper=info,h2=info,sqlx=debug"),
        ..Options::SMALL
    })
    .await;
    let mut watch = Watch::default();
    let owner = world::human(&cluster, "owner").await;
    let guest = world::human(&cluster, "guest").await;
    let bot = owner.make_bot("bot").await;
    watch.secret("a token", &owner.token);
    watch.secret("a password", &format!("a long password of {}", owner.name));
    watch.secret("an address", &format!("{}@example.org", owner.name));
    watch.secret("a bot's token", &bot.token);
    let guild = owner.make_guild_on(&cluster, 0, "house").await;
    owner.invite(&guild, &guest).await;
    owner.add_bot(&guild, &bot).await;
    let urls = vec![cluster.gateways[0].url()];
    let hearing = Session::start(guest.login(urls.clone(), INTENTS)).await;
    let listening = Session::start(bot.login(urls.clone(), INTENTS)).await;

    texts(&mut watch, &owner, &guest, &guild.channel, &hearing).await;
    webhooks_and_files(&mut watch, &owner, &guild.channel, &hearing).await;
    interactions(&mut watch, &owner, &bot, &guild, &listening).await;
    refused_requests(&mut watch, &cluster, &owner, &guild.channel).await;
    refused_frames(&mut watch, &urls[0]).await;
    watch.assert_absent_everywhere(&cluster).await;
}

/// Messages of all kinds, edited, searched, deleted, in a guild and between two.
async fn texts(
    watch: &mut Watch,
    owner: &Account,
    guest: &Account,
    channel: &str,
    hearing: &Session,
) {
    let path = format!("/channels/{channel}/messages");
    let (content, nonce) = (watch.word("a text"), watch.word("a nonce"));
    let form = json!({"content": content, "nonce": nonce, "embeds": [
        {"title": watch.word("an embed"), "description": watch.word("an embed")}]});
    let message = owner.rest.post(&path, &form).await.ok();
    hearing.message(&content).await;
    let one = format!("{path}/{}", text(&message["id"]));
    let edited = watch.word("an edited text");
    owner
        .rest
        .patch(&one, &json!({"content": edited}))
        .await
        .ok();
    let search = format!("/channels/{channel}/messages/search?content={edited}");
    owner.rest.get(&search).await;
    owner.rest.delete(&one).await.ok();
    let dm = json!({"recipient_id": guest.id});
    let dm = owner.rest.post("/users/@me/channels", &dm).await.ok();
    let private = watch.word("a private text");
    owner.say(&text(&dm["id"]), &private).await;
    hearing.message(&private).await;
    let note = json!({"note": watch.word("a note")});
    owner
        .rest
        .put(&format!("/users/@me/notes/{}", guest.id), &note)
        .await
        .ok();
}

async fn webhooks_and_files(watch: &mut Watch, owner: &Account, channel: &str, hearing: &Session) {
    let path = format!("/channels/{channel}/webhooks");
    let hook = owner.rest.post(&path, &json!({"name": "hook"})).await.ok();
    let token = watch.secret("a webhook's token", &text(&hook["token"]));
    let execute = format!("/webhooks/{}/{token}", text(&hook["id"]));
    let said = watch.word("a webhook's text");
    owner
        .rest
        .post(&execute, &json!({"content": said}))
        .await
        .ok();
    hearing.message(&said).await;
    let wrong = format!(
        "/webhooks/{}/{}",
        text(&hook["id"]),
        watch.word("a wrong webhook token")
    );
    watch.error(owner.rest.post(&wrong, &json!({"content": said})).await);
    let file = Part::text(watch.word("a file")).file_name("a.txt");
    let form = Form::new()
        .text(
            "payload_json",
            json!({"content": watch.word("a text beside a file")}).to_string(),
        )
        .part("files[0]", file);
    let messages = format!("/channels/{channel}/messages");
    let request = owner.rest.request(Method::POST, &messages).multipart(form);
    owner.rest.send(request).await.unwrap().ok();
}

/// A command that is invoked and answered twice.
async fn interactions(
    watch: &mut Watch,
    owner: &Account,
    bot: &Account,
    guild: &world::Guild,
    listening: &Session,
) {
    let commands = format!("/applications/{}/commands", bot.id);
    let form = json!({"name": "greet", "description": "says hello"});
    let command = bot.rest.post(&commands, &form).await.ok();
    let invoke = json!({"type": 2, "application_id": bot.id, "guild_id": guild.id,
        "channel_id": guild.channel, "session_id": "session", "nonce": "1",
        "data": {"version": command["version"], "id": command["id"], "name": "greet", "type": 1,
                 "options": [], "attachments": []}});
    owner.rest.post("/interactions", &invoke).await.ok();
    let asked = listening.dispatch("INTERACTION_CREATE", |_| true).await;
    let token = watch.secret("an interaction's token", &text(&asked["token"]));
    let callback = format!("/interactions/{}/{token}/callback", text(&asked["id"]));
    let answer = json!({"type": 4, "data": {"content": watch.word("an answer")}});
    bot.rest.post(&callback, &answer).await.ok();
    watch.error(bot.rest.post(&callback, &answer).await);
    let original = format!("/webhooks/{}/{token}/messages/@original", bot.id);
    let change = json!({"content": watch.word("a changed answer")});
    bot.rest.patch(&original, &change).await.ok();
}

/// Requests that fail, each with something in it that must not come out.
async fn refused_requests(watch: &mut Watch, cluster: &Cluster, owner: &Account, channel: &str) {
    let nobody = cluster.rest(0);
    let path = format!("/channels/{channel}/messages");
    let login = json!({"login": owner.name, "password": watch.word("a wrong password")});
    watch.error(nobody.post("/auth/login", &login).await);
    let stranger = nobody.with_token(&watch.word("a wrong token"));
    watch.error(stranger.get("/users/@me").await);
    let long = watch.word("a text that is too long").repeat(200);
    watch.error(owner.rest.post(&path, &json!({"content": long})).await);
    let hidden = json!({"content": watch.word("a text for a channel that is not there")});
    watch.error(
        owner
            .rest
            .post("/channels/100000000000000001/messages", &hidden)
            .await,
    );
    let broken = format!(
        "{{\"content\": \"{}\", ",
        watch.word("a text in broken JSON")
    );
    for body in [
        broken.clone(),
        format!("[{broken}]"),
        format!("{broken}\"content\": 1}}"),
    ] {
        let request = owner.rest.request(Method::POST, &path);
        let request = request
            .header("content-type", "application/json")
            .body(body);
        watch.error(owner.rest.send(request).await.unwrap());
    }
    let form = Form::new().text("payload_json", broken).part(
        "files[0]",
        Part::text(watch.word("a file of a bad form")).file_name("a.txt"),
    );
    let request = owner.rest.request(Method::POST, &path).multipart(form);
    watch.error(owner.rest.send(request).await.unwrap());
    let register = json!({"username": "x", "email": "no address",
        "password": watch.word("a password of a bad form"), "consent": true});
    watch.error(nobody.post("/auth/register", &register).await);
    let reset =
        json!({"token": watch.word("a mailed token"), "password": watch.word("a password")});
    watch.error(nobody.post("/auth/reset", &reset).await);
    let exchange = format!(
        "grant_type=authorization_code&code={}&client_id={}&client_secret={}",
        watch.word("an OAuth2 code"),
        owner.id,
        watch.word("a client's secret"),
    );
    let request = nobody
        .request(Method::POST, "/oauth2/token")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(exchange);
    watch.error(nobody.send(request).await.unwrap());
}

/// Frames that close a connection.
async fn refused_frames(watch: &mut Watch, url: &str) {
    let identify = client::identify(&watch.word("a wrong token"), Some(INTENTS), None);
    let resume = client::resume(&watch.word("a wrong token"), "session", 1);
    let word = watch.word("a frame");
    for frame in [
        identify.to_string(),
        resume.to_string(),
        format!("{{\"op\":2,\"d\":{{\"token\":\"{word}"),
        json!({"op": 2, "d": {"token": 1, "properties": word}}).to_string(),
        json!({"op": 77, "d": word}).to_string(),
        Value::String(word.clone()).to_string(),
    ] {
        let mut client = Client::open(url).await.unwrap();
        client.expect_op(10).await;
        client.send_text(frame);
        if let Some(Some(frame)) = client.next_within(std::time::Duration::from_secs(2)).await {
            watch.assert_absent("a frame", &frame.raw);
        }
    }
}
