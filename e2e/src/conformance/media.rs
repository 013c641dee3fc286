//! Emojis, stickers, soundboard, attachments.

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::{Value, json};

use super::{Book, NOTHING, Person, Proof, World};
use crate::{
    client,
    rest::{Reply, Rest},
    world::{each, permission, text},
};

/// One red pixel.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg==";

pub(super) async fn prove(world: &World, book: &mut Book) {
    emojis(world, book).await;
    application_emojis(world, book).await;
    stickers(world, book).await;
    soundboard(world, book).await;
    attachments(world, book).await;
}

pub(super) fn image() -> String {
    format!("data:image/png;base64,{PNG}")
}

/// The pixel's bytes.
fn png() -> Vec<u8> {
    STANDARD.decode(PNG).expect("it is base64")
}

/// A tenth of a second of silence: MPEG-1 layer III frames of 417 bytes at 128 kbit/s, 44.1 kHz.
fn mp3() -> Vec<u8> {
    let mut frame = vec![0_u8; 417];
    frame[..4].copy_from_slice(&[0xFF, 0xFB, 0x90, 0x64]);
    frame.repeat(4)
}

/// A tenth of a second of silence, as a form takes it.
pub(super) fn sound() -> String {
    format!("data:audio/mp3;base64,{}", STANDARD.encode(mp3()))
}

async fn send(rest: &Rest, method: Method, path: &str, form: Form) -> Reply {
    let request = rest.request(method, path).multipart(form);
    rest.answer(request).await
}

async fn emojis(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let path = format!("/guilds/{}/emojis", guild.id);
    let form = json!({"name": "pixel", "image": image()});
    let mut id = String::new();
    let has = |id: &str, name: &str| {
        let (id, name) = (id.to_owned(), name.to_owned());
        move |d: &Value| {
            each(&d["emojis"])
                .any(|emoji| emoji["id"] == id.as_str() && emoji["name"] == name.as_str())
        }
    };
    book.prove("create_guild_emoji", async |p: &mut Proof| {
        let made = p.answers(bot.rest.post(&path, &form).await);
        id = text(&made["id"]);
        p.acts(made["name"] == "pixel", "the name reads");
        p.event(&[owner, member], "GUILD_EMOJIS_UPDATE", has(&id, "pixel"))
            .await;
        p.nobody_else(&[stranger], "GUILD_EMOJIS_UPDATE", has(&id, "pixel"))
            .await;
        p.refuses(stranger.rest.post(&path, &form).await, 403, 50001);
        p.faults(
            bot.rest
                .post(&path, &json!({"name": "x", "image": image()}))
                .await,
            "name",
            "BASE_TYPE_BAD_LENGTH",
        );
    })
    .await;
    let one = format!("{path}/{id}");
    book.prove("get_guild_emoji", async |p: &mut Proof| {
        let read = p.answers(member.rest.get(&one).await);
        p.acts(read["name"] == "pixel", "the name reads");
        p.refuses(
            member.rest.get(&format!("{path}/{NOTHING}")).await,
            404,
            10014,
        );
        p.refuses(stranger.rest.get(&one).await, 403, 50001);
    })
    .await;
    book.prove("list_guild_emojis", async |p: &mut Proof| {
        let list = p.answers(member.rest.get(&path).await);
        p.acts(list[0]["id"] == id.as_str(), "it is listed");
        p.refuses(stranger.rest.get(&path).await, 403, 50001);
    })
    .await;
    book.prove("update_guild_emoji", async |p: &mut Proof| {
        let changed = p.answers(bot.rest.patch(&one, &json!({"name": "dot"})).await);
        p.acts(changed["name"] == "dot", "the name changes");
        p.event(&[owner, member], "GUILD_EMOJIS_UPDATE", has(&id, "dot"))
            .await;
        p.refuses(
            member.rest.patch(&one, &json!({"name": "mine"})).await,
            403,
            50013,
        );
    })
    .await;
    book.prove("delete_guild_emoji", async |p: &mut Proof| {
        p.refuses(member.rest.delete(&one).await, 403, 50013);
        p.answers(bot.rest.delete(&one).await);
        let without = |d: &Value| d["guild_id"] == guild.id.as_str() && d["emojis"] == json!([]);
        p.event(&[owner, member], "GUILD_EMOJIS_UPDATE", without)
            .await;
        p.acts(member.rest.get(&one).await.code() == 10014, "it is gone");
        p.refuses(bot.rest.delete(&one).await, 404, 10014);
    })
    .await;
}

async fn application_emojis(world: &World, book: &mut Book) {
    let World { bot, member, .. } = world;
    let path = format!("/applications/{}/emojis", bot.id);
    let mut id = String::new();
    book.prove("create_application_emoji", async |p: &mut Proof| {
        let form = json!({"name": "pixel", "image": image()});
        let made = p.answers(bot.rest.post(&path, &form).await);
        id = text(&made["id"]);
        p.acts(made["name"] == "pixel", "the name reads");
        p.faults(
            bot.rest.post(&path, &json!({"name": "pixel"})).await,
            "image",
            "BASE_TYPE_REQUIRED",
        );
        p.refuses(member.rest.post(&path, &form).await, 403, 20012);
    })
    .await;
    let one = format!("{path}/{id}");
    book.prove("get_application_emoji", async |p: &mut Proof| {
        let read = p.answers(bot.rest.get(&one).await);
        p.acts(read["name"] == "pixel", "the name reads");
        p.refuses(bot.rest.get(&format!("{path}/{NOTHING}")).await, 404, 10014);
    })
    .await;
    book.prove("list_application_emojis", async |p: &mut Proof| {
        let list = p.answers(bot.rest.get(&path).await);
        p.acts(list["items"][0]["id"] == id.as_str(), "it is listed");
        p.refuses(member.rest.get(&path).await, 403, 20012);
    })
    .await;
    book.prove("update_application_emoji", async |p: &mut Proof| {
        let changed = p.answers(bot.rest.patch(&one, &json!({"name": "dot"})).await);
        p.acts(changed["name"] == "dot", "the name changes");
        p.refuses(
            bot.rest
                .patch(&format!("{path}/{NOTHING}"), &json!({"name": "dot"}))
                .await,
            404,
            10014,
        );
    })
    .await;
    book.prove("delete_application_emoji", async |p: &mut Proof| {
        p.answers(bot.rest.delete(&one).await);
        p.acts(bot.rest.get(&one).await.code() == 10014, "it is gone");
        p.refuses(bot.rest.delete(&one).await, 404, 10014);
    })
    .await;
}

async fn stickers(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let path = format!("/guilds/{}/stickers", guild.id);
    let form = || {
        let file = Part::bytes(png()).file_name("pixel.png");
        let file = file.mime_str("image/png").expect("a media type");
        Form::new()
            .text("name", "pixel")
            .text("description", "a dot")
            .text("tags", "dot")
            .part("file", file)
    };
    let mut id = String::new();
    book.prove("create_guild_sticker", async |p: &mut Proof| {
        let made = p.answers(send(&bot.rest, Method::POST, &path, form()).await);
        id = text(&made["id"]);
        p.acts(made["name"] == "pixel", "the name reads");
        let is_it = |d: &Value| d["stickers"][0]["id"] == id.as_str();
        p.event(&[owner, member], "GUILD_STICKERS_UPDATE", is_it)
            .await;
        p.nobody_else(&[stranger], "GUILD_STICKERS_UPDATE", is_it)
            .await;
        p.refuses(
            send(&stranger.rest, Method::POST, &path, form()).await,
            403,
            50001,
        );
    })
    .await;
    let one = format!("{path}/{id}");
    for (operation, path) in [
        ("get_guild_sticker", one.clone()),
        ("get_sticker", format!("/stickers/{id}")),
    ] {
        book.prove(operation, async |p: &mut Proof| {
            let read = p.answers(member.rest.get(&path).await);
            p.acts(read["name"] == "pixel", "the name reads");
            p.refuses(
                member.rest.get(&path.replace(&id, NOTHING)).await,
                404,
                10060,
            );
        })
        .await;
    }
    book.prove("list_guild_stickers", async |p: &mut Proof| {
        let list = p.answers(member.rest.get(&path).await);
        p.acts(list[0]["id"] == id.as_str(), "it is listed");
        p.refuses(stranger.rest.get(&path).await, 403, 50001);
    })
    .await;
    book.prove("update_guild_sticker", async |p: &mut Proof| {
        let changed = p.answers(bot.rest.patch(&one, &json!({"name": "dot"})).await);
        p.acts(changed["name"] == "dot", "the name changes");
        p.event(&[owner], "GUILD_STICKERS_UPDATE", |d| {
            d["stickers"][0]["name"] == "dot"
        })
        .await;
        p.refuses(
            member.rest.patch(&one, &json!({"name": "mine"})).await,
            403,
            50013,
        );
    })
    .await;
    book.prove("delete_guild_sticker", async |p: &mut Proof| {
        p.refuses(member.rest.delete(&one).await, 403, 50013);
        p.answers(bot.rest.delete(&one).await);
        p.event(&[owner, member], "GUILD_STICKERS_UPDATE", |d| {
            d["stickers"] == json!([])
        })
        .await;
        p.acts(member.rest.get(&one).await.code() == 10060, "it is gone");
    })
    .await;
    sticker_packs(world, book).await;
}

async fn sticker_packs(world: &World, book: &mut Book) {
    let [owner, member, stranger, ..] = world.people();
    let guild = &world.guild;
    let mut pack = Value::Null;
    book.prove("list_sticker_packs", async |p: &mut Proof| {
        let packs = p.answers(member.rest.get("/sticker-packs").await);
        pack = packs["sticker_packs"][0].clone();
        p.acts(pack["name"] == "Hello", "the operator's pack is listed");
        p.refuses_no_more();
    })
    .await;
    let path = format!("/sticker-packs/{}", text(&pack["id"]));
    book.prove("get_sticker_pack", async |p: &mut Proof| {
        let read = p.answers(member.rest.get(&path).await);
        p.acts(read == pack, "it reads as it is listed");
        let id = text(&read["stickers"][0]["id"]);
        let messages = format!("/channels/{}/messages", guild.lobby);
        let body = json!({"sticker_ids": [id]});
        let sent = member.rest.post(&messages, &body).await;
        p.acts(sent.status == 200, "its stickers can be sent");
        let is_it = |d: &Value| d["sticker_items"][0]["id"] == id.as_str();
        p.event(&[owner], "MESSAGE_CREATE", is_it).await;
        p.nobody_else(&[stranger], "MESSAGE_CREATE", is_it).await;
        p.refuses(
            member.rest.get(&format!("/sticker-packs/{NOTHING}")).await,
            404,
            10061,
        );
    })
    .await;
}

async fn soundboard(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let path = format!("/guilds/{}/soundboard-sounds", guild.id);
    book.prove("get_soundboard_default_sounds", async |p: &mut Proof| {
        let list = p.answers(member.rest.get("/soundboard-default-sounds").await);
        p.acts(list.is_array(), "there is a list");
        p.refuses_no_more();
    })
    .await;
    let form = json!({"name": "beep", "sound": sound()});
    let mut id = String::new();
    book.prove("create_guild_soundboard_sound", async |p: &mut Proof| {
        let made = p.answers(bot.rest.post(&path, &form).await);
        id = text(&made["sound_id"]);
        let is_it = |d: &Value| d["sound_id"] == id.as_str();
        p.event(&[owner, member], "GUILD_SOUNDBOARD_SOUND_CREATE", is_it)
            .await;
        p.nobody_else(&[stranger], "GUILD_SOUNDBOARD_SOUND_CREATE", is_it)
            .await;
        p.acts(made["name"] == "beep", "the name reads");
        p.refuses(stranger.rest.post(&path, &form).await, 403, 50001);
        p.faults(
            bot.rest.post(&path, &json!({"name": "beep"})).await,
            "sound",
            "BASE_TYPE_REQUIRED",
        );
    })
    .await;
    let one = format!("{path}/{id}");
    book.prove("get_guild_soundboard_sound", async |p: &mut Proof| {
        let read = p.answers(member.rest.get(&one).await);
        p.acts(read["name"] == "beep", "the name reads");
        p.refuses(stranger.rest.get(&one).await, 403, 50001);
    })
    .await;
    book.prove("list_guild_soundboard_sounds", async |p: &mut Proof| {
        let list = p.answers(member.rest.get(&path).await);
        p.acts(list["items"][0]["sound_id"] == id.as_str(), "it is listed");
        p.refuses(stranger.rest.get(&path).await, 403, 50001);
    })
    .await;
    book.prove("send_soundboard_sound", async |p: &mut Proof| {
        play(world, p, &id).await;
    })
    .await;
    book.prove("update_guild_soundboard_sound", async |p: &mut Proof| {
        let changed = p.answers(bot.rest.patch(&one, &json!({"name": "boop"})).await);
        p.acts(changed["name"] == "boop", "the name changes");
        let is_it = |d: &Value| d["sound_id"] == id.as_str() && d["name"] == "boop";
        p.event(&[owner, member], "GUILD_SOUNDBOARD_SOUND_UPDATE", is_it)
            .await;
        p.refuses(
            member.rest.patch(&one, &json!({"name": "mine"})).await,
            403,
            50013,
        );
    })
    .await;
    book.prove("delete_guild_soundboard_sound", async |p: &mut Proof| {
        p.refuses(member.rest.delete(&one).await, 403, 50013);
        p.answers(bot.rest.delete(&one).await);
        let is_it = |d: &Value| d["sound_id"] == id.as_str();
        p.event(&[owner, member], "GUILD_SOUNDBOARD_SOUND_DELETE", is_it)
            .await;
        p.acts(member.rest.get(&one).await.status == 404, "it is gone");
    })
    .await;
}

/// A sound is heard by those who are in the voice channel.
async fn play(world: &World, p: &mut Proof, sound: &str) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let voice = world.channel_of_type(2).await.expect("a voice channel");
    let path = format!("/channels/{voice}/send-soundboard-sound");
    let form = json!({"sound_id": sound});
    p.refuses(member.rest.post(&path, &form).await, 400, 50167);
    join(owner, &guild.id, Some(&voice)).await;
    p.answers(owner.rest.post(&path, &form).await);
    let is_it = |d: &Value| d["channel_id"] == voice.as_str() && d["sound_id"] == sound;
    p.event(&[owner], "VOICE_CHANNEL_EFFECT_SEND", is_it).await;
    p.nobody_else(&[stranger, bot], "VOICE_CHANNEL_EFFECT_SEND", is_it)
        .await;
    join(owner, &guild.id, None).await;
}

async fn join(person: &Person, guild: &str, channel: Option<&str>) {
    person.session.send(&client::voice(guild, channel));
    person
        .session
        .dispatch("VOICE_STATE_UPDATE", |d| {
            d["user_id"] == person.id.as_str() && d["channel_id"].as_str() == channel
        })
        .await;
}

async fn attachments(world: &World, book: &mut Book) {
    let [_, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let messages = format!("/channels/{}/messages", guild.lobby);
    let upload = |name: &str| {
        let payload = json!({"content": "see", "attachments": [{"id": 0, "description": "a dot"}]});
        Form::new()
            .text("payload_json", payload.to_string())
            .part("files[0]", Part::bytes(png()).file_name(name.to_owned()))
    };
    let mut url = String::new();
    book.prove("create_message", async |p: &mut Proof| {
        let made = p.answers(send(&bot.rest, Method::POST, &messages, upload("dot.png")).await);
        let attachment = &made["attachments"][0];
        p.acts(
            attachment["content_type"] == "image/png" && attachment["width"] == 1,
            "it was looked at",
        );
        url = text(&attachment["url"]);
        let is_it =
            |d: &Value| d["id"] == made["id"] && d["attachments"][0]["filename"] == "dot.png";
        p.event(&[bot, member], "MESSAGE_CREATE", is_it).await;
        let file = reqwest::get(&url)
            .await
            .and_then(reqwest::Response::error_for_status);
        let bytes = match file {
            Ok(file) => file.bytes().await.unwrap_or_default(),
            Err(_) => Default::default(),
        };
        p.acts(bytes == png(), "the file comes back as it was");
    })
    .await;
    book.prove("attachments_refresh", async |p: &mut Proof| {
        let form = json!({"attachment_urls": [url]});
        let answer = p.answers(bot.rest.post("/attachments/refresh-urls", &form).await);
        p.acts(
            answer["refreshed_urls"][0]["original"] == url.as_str(),
            "the address is there",
        );
        p.refuses_no_more();
    })
    .await;
    book.prove("attachment_upload_slots", async |p: &mut Proof| {
        let path = format!("/channels/{}/attachments", guild.lobby);
        let form = json!({"files": [{"id": "0", "filename": "later.png", "file_size": png().len()}]});
        let slots = p.answers(member.rest.post(&path, &form).await);
        let slot = &slots["attachments"][0];
        let put = reqwest::Client::new().put(text(&slot["upload_url"])).body(png()).send().await;
        p.acts(put.is_ok_and(|put| put.status().is_success()), "the bytes are taken");
        let form = json!({"attachments": [{"id": "0", "filename": "later.png", "uploaded_filename": slot["upload_filename"]}]});
        let said = member.rest.post(&messages, &form).await.body;
        p.acts(said["attachments"][0]["filename"] == "later.png", "the message carries it");
        let form = json!({"files": [{"id": "0", "filename": "x.png", "file_size": 1}]});
        p.refuses(stranger.rest.post(&path, &form).await, 403, 50001);
    })
    .await;
    book.prove("create_message", async |p: &mut Proof| {
        let path = world.channel().await;
        let deny =
            json!({"type": 0, "allow": "0", "deny": (permission::VIEW_CHANNEL << 5).to_string()});
        bot.rest
            .put(&format!("/channels/{path}/permissions/{}", guild.id), &deny)
            .await
            .ok();
        let path = format!("/channels/{path}/messages");
        p.refuses(
            send(&member.rest, Method::POST, &path, upload("dot.png")).await,
            403,
            50013,
        );
    })
    .await;
}
