//! Logging in and out, mailed tokens, the second factor.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};
use totp_rs::{Builder, Secret, Totp};

use super::{Book, Proof, World};
use crate::{
    rest::{Reply, Rest},
    world::{Account, each, random_word, text},
};

/// A mail that has not come after this long never will.
const MAIL_WAIT: Duration = Duration::from_secs(15);
const TOTP_SECRET: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";
const TOTP_STEP_S: u64 = 30;
const WRONG_CODE: &str = "not a code";

pub(super) async fn prove(world: &World, book: &mut Book) {
    logins(world, book).await;
    mailed_tokens(world, book).await;
    second_factor(world, book).await;
}

/// What [`crate::world::human`] registers with.
pub(super) fn password(name: &str) -> String {
    format!("a long password of {name}")
}

async fn logins(world: &World, book: &mut Book) {
    let nobody = Rest::new(&world.origin);
    let guest = world.newcomer().await;
    let (mail, word) = (format!("{}@example.org", guest.name), password(&guest.name));
    book.prove("auth_register", async |p: &mut Proof| {
        let name = format!("fresh.{}", random_word());
        let form = json!({"username": name, "email": format!("{name}@example.org"), "password": password(&name),
            "date_of_birth": "1990-02-03", "consent": true});
        let made = p.answers(nobody.post("/auth/register", &form).await);
        let me = nobody.with_token(&text(&made["token"])).get("/users/@me").await.body;
        p.acts(me["username"] == name.as_str(), "the token is the account's");
        p.faults(nobody.post("/auth/register", &form).await, "username", "USERNAME_ALREADY_TAKEN");
    })
    .await;
    let mut token = String::new();
    book.prove("auth_login", async |p: &mut Proof| {
        let form = json!({"login": mail, "password": word});
        let answer = p.answers(nobody.post("/auth/login", &form).await);
        token = text(&answer["token"]);
        let me = nobody.with_token(&token).get("/users/@me").await.body;
        p.acts(me["id"] == guest.id.as_str(), "the token is the account's");
        let wrong = json!({"login": mail, "password": "wrong password"});
        p.faults(
            nobody.post("/auth/login", &wrong).await,
            "login",
            "INVALID_LOGIN",
        );
    })
    .await;
    let second = nobody.with_token(&token);
    book.prove("auth_sessions_list", async |p: &mut Proof| {
        let list = p.answers(second.get("/auth/sessions").await);
        let count = list["user_sessions"].as_array().map(Vec::len);
        p.acts(count == Some(2), "both logins are listed");
        p.refuses_no_more();
    })
    .await;
    book.prove("auth_sessions_revoke", async |p: &mut Proof| {
        let list = second.get("/auth/sessions").await.body;
        let hashes: Vec<&Value> = each(&list["user_sessions"])
            .map(|s| &s["id_hash"])
            .collect();
        p.refuses(
            second
                .post("/auth/sessions/logout", &json!({"session_id_hashes": []}))
                .await,
            400,
            50035,
        );
        p.answers(
            second
                .post(
                    "/auth/sessions/logout",
                    &json!({"session_id_hashes": hashes}),
                )
                .await,
        );
        p.acts(
            guest.rest.get("/users/@me").await.status == 401,
            "the other token is dead",
        );
    })
    .await;
    book.prove("auth_logout", async |p: &mut Proof| {
        let form = json!({"login": mail, "password": word});
        let answer = nobody.post("/auth/login", &form).await.body;
        let third = nobody.with_token(&text(&answer["token"]));
        p.answers(third.post("/auth/logout", &json!({})).await);
        p.acts(
            third.get("/users/@me").await.status == 401,
            "the token is dead",
        );
        p.refuses_no_more();
    })
    .await;
}

/// The token of the newest mail to an account, which the API prints; another than `old`.
async fn mailed(world: &World, account: &Account, old: &str) -> String {
    let until = Instant::now() + MAIL_WAIT;
    let to = format!("{}@example.org", account.name);
    while Instant::now() < until {
        let log = tokio::fs::read_to_string(&world.api_log).await;
        let log = log.unwrap_or_default();
        let mails = log.rsplit("mail printed, not sent");
        let newest = mails.into_iter().find(|mail| mail.contains(&to));
        let token =
            newest.and_then(|mail| mail.split("the token:").nth(1)?.split_whitespace().next());
        if let Some(token) = token.filter(|token| *token != old) {
            return token.to_owned();
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("no mail has come for {}", account.name);
}

async fn mailed_tokens(world: &World, book: &mut Book) {
    let nobody = Rest::new(&world.origin);
    let [_, member, stranger, bot] = world.people();
    let mut ticket = String::new();
    book.prove("auth_verify_resend", async |p: &mut Proof| {
        let first = mailed(world, &member.account, "").await;
        p.answers(member.rest.post_empty("/auth/verify/resend").await);
        ticket = mailed(world, &member.account, &first).await;
        p.acts(ticket != first, "a new token is mailed");
        p.refuses(bot.rest.post_empty("/auth/verify/resend").await, 403, 20001);
    })
    .await;
    book.prove("auth_verify_email", async |p: &mut Proof| {
        let verify =
            async |token: &str| nobody.post("/auth/verify", &json!({"token": token})).await;
        p.faults(verify("no token").await, "token", "TOKEN_INVALID");
        let answer = p.answers(verify(&ticket).await);
        p.acts(
            answer["user_id"] == member.id.as_str(),
            "it says whose address it is",
        );
        let is_it = |d: &Value| d["id"] == member.id.as_str() && d["verified"] == true;
        p.event(&[member], "USER_UPDATE", is_it).await;
        p.nobody_else(&[stranger], "USER_UPDATE", is_it).await;
        let me = member.rest.get("/users/@me").await.body;
        p.acts(me["verified"] == true, "the address is verified");
        p.faults(verify(&ticket).await, "token", "TOKEN_INVALID");
    })
    .await;

    let guest = world.newcomer().await;
    let mail = format!("{}@example.org", guest.name);
    let first = mailed(world, &guest, "").await;
    book.prove("auth_forgot", async |p: &mut Proof| {
        let known = nobody.post("/auth/forgot", &json!({"login": mail})).await;
        let unknown = nobody
            .post("/auth/forgot", &json!({"login": "nobody@example.org"}))
            .await;
        p.acts(
            known.status == unknown.status && known.body == unknown.body,
            "nothing is told",
        );
        p.answers(known);
        p.faults(
            nobody.post("/auth/forgot", &json!({})).await,
            "login",
            "BASE_TYPE_REQUIRED",
        );
    })
    .await;
    book.prove("auth_reset", async |p: &mut Proof| {
        let reset = async |token: &str, word: &str| {
            let form = json!({"token": token, "password": word});
            nobody.post("/auth/reset", &form).await
        };
        let token = mailed(world, &guest, &first).await;
        p.faults(
            reset(&token, "short").await,
            "password",
            "BASE_TYPE_BAD_LENGTH",
        );
        let answer = p.answers(reset(&token, "a new long password").await);
        let fresh = nobody.with_token(&text(&answer["token"]));
        p.acts(
            fresh.get("/users/@me").await.body["id"] == guest.id.as_str(),
            "the new token is the account's",
        );
        p.acts(
            guest.rest.get("/users/@me").await.status == 401,
            "the old token is dead",
        );
        let form = json!({"login": mail, "password": "a new long password"});
        p.acts(
            nobody.post("/auth/login", &form).await.status == 200,
            "the new password logs in",
        );
        p.faults(
            reset(&token, "another password").await,
            "token",
            "TOKEN_INVALID",
        );
    })
    .await;
}

/// The code `steps` from now; the server takes the current one and its neighbours, each once
/// and in their order.
fn code(steps: i64) -> String {
    let secret = Secret::try_from_base32(TOTP_SECRET).expect("it is base32");
    let totp: Totp = Builder::new()
        .with_secret(secret)
        .build()
        .expect("the secret is long enough");
    let shift = steps * TOTP_STEP_S as i64;
    totp.generate(now_s().saturating_add_signed(shift))
        .to_string()
}

fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// A call with a proof of the second factor.
async fn with_proof(rest: &Rest, path: &str, proof: &str, form: &Value) -> Reply {
    let request = rest
        .request(Method::POST, path)
        .header("x-discord-mfa-authorization", proof)
        .json(form);
    rest.answer(request).await
}

async fn second_factor(world: &World, book: &mut Book) {
    let nobody = Rest::new(&world.origin);
    let guest = world.newcomer().await;
    let word = password(&guest.name);
    let log_in = json!({"login": guest.name, "password": word});
    // All codes of the cases are of one half-minute and its neighbours: not begun at its end.
    let second = now_s() % TOTP_STEP_S;
    if second > TOTP_STEP_S / 2 {
        sleep_until(Instant::now() + Duration::from_secs(TOTP_STEP_S - second)).await;
    }
    let mut rest = guest.rest.clone();
    let mut backup = Vec::new();
    book.prove("mfa_totp_enable", async |p: &mut Proof| {
        let path = "/users/@me/mfa/totp/enable";
        p.refuses(
            rest.post(path, &json!({"password": word})).await,
            400,
            60005,
        );
        let wrong = json!({"password": word, "secret": TOTP_SECRET, "code": WRONG_CODE});
        p.refuses(rest.post(path, &wrong).await, 400, 60008);
        let form = json!({"password": word, "secret": TOTP_SECRET, "code": code(-1)});
        let answer = p.answers(rest.post(path, &form).await);
        p.acts(
            rest.get("/users/@me").await.status == 401,
            "the old token is dead",
        );
        rest = nobody.with_token(&text(&answer["token"]));
        let me = rest.get("/users/@me").await.body;
        p.acts(me["mfa_enabled"] == true, "it is on");
        let codes = each(&answer["backup_codes"]);
        backup = codes.map(|code| text(&code["code"])).collect();
        p.acts(backup.len() >= 4, "there are backup codes");
    })
    .await;
    for (operation, path, good) in [
        ("auth_mfa_totp", "/auth/mfa/totp", code(0)),
        (
            "auth_mfa_backup",
            "/auth/mfa/backup",
            backup.first().cloned().unwrap_or_default(),
        ),
    ] {
        book.prove(operation, async |p: &mut Proof| {
            let asked = nobody.post("/auth/login", &log_in).await.body;
            let ticket = text(&asked["ticket"]);
            let step = async |ticket: &str, code: &str| {
                nobody
                    .post(path, &json!({"ticket": ticket, "code": code}))
                    .await
            };
            p.refuses(step(&ticket, WRONG_CODE).await, 400, 60008);
            let answer = p.answers(step(&ticket, &good).await);
            let fresh = nobody.with_token(&text(&answer["token"]));
            p.acts(
                fresh.get("/users/@me").await.body["id"] == guest.id.as_str(),
                "the token is the account's",
            );
            p.refuses(step(&ticket, &good).await, 400, 60006);
        })
        .await;
    }
    let mut proof = String::new();
    book.prove("mfa_finish", async |p: &mut Proof| {
        let asked = rest.post("/users/@me/mfa/totp/disable", &json!({})).await;
        p.acts(
            (asked.status, asked.code()) == (401, 60003),
            "a sensitive call asks for it",
        );
        let ticket = text(&asked.body["mfa"]["ticket"]);
        let finish = async |ticket: &str, kind: &str, code: &str| {
            let form = json!({"ticket": ticket, "mfa_type": kind, "data": code});
            rest.post("/mfa/finish", &form).await
        };
        p.refuses(finish(&ticket, "totp", WRONG_CODE).await, 400, 60008);
        p.faults(
            finish(&ticket, "sms", "1").await,
            "mfa_type",
            "BASE_TYPE_CHOICES",
        );
        let answer = p.answers(finish(&ticket, "totp", &code(1)).await);
        proof = text(&answer["token"]);
        p.refuses(finish(&ticket, "totp", &code(1)).await, 400, 60006);
    })
    .await;
    book.prove("mfa_backup_codes", async |p: &mut Proof| {
        let path = "/users/@me/mfa/codes-verification";
        let form = json!({"password": word, "regenerate": true});
        p.refuses(rest.post(path, &form).await, 401, 60003);
        let answer = p.answers(with_proof(&rest, path, &proof, &form).await);
        let codes = each(&answer["backup_codes"]);
        let fresh: Vec<String> = codes.map(|code| text(&code["code"])).collect();
        p.acts(
            !fresh.is_empty() && fresh.iter().all(|code| !backup.contains(code)),
            "the codes are new",
        );
        backup = fresh;
    })
    .await;
    book.prove("mfa_totp_disable", async |p: &mut Proof| {
        let path = "/users/@me/mfa/totp/disable";
        p.refuses(
            rest.post(path, &json!({"code": WRONG_CODE})).await,
            400,
            60008,
        );
        let answer = p.answers(rest.post(path, &json!({"code": backup.first()})).await);
        rest = nobody.with_token(&text(&answer["token"]));
        let me = rest.get("/users/@me").await.body;
        p.acts(me["mfa_enabled"] == false, "it is off");
        p.refuses(rest.post(path, &json!({})).await, 400, 60002);
    })
    .await;
}
