//! Sounds of guilds, and playing them.

use guildhall_shared::{Permissions, id::marker};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{TestApp, alone, hall},
    media::data_uri,
};

/// Ogg with Opus that plays so long.
fn ogg(ms: u64) -> Vec<u8> {
    let page = |flags: u8, position: u64, body: &[u8]| {
        let mut page = b"OggS\0".to_vec();
        page.push(flags);
        page.extend(position.to_le_bytes());
        page.extend([0; 12]);
        page.extend([1, body.len() as u8]);
        page.extend(body);
        page
    };
    [
        page(2, 0, b"OpusHead\x01\x01\0\0\x80\xBB\0\0\0\0\0"),
        page(0, 0, b"OpusTags"),
        page(4, 48 * ms, b"sound"),
    ]
    .concat()
}

/// MPEG-1 layer III frames of 26 milliseconds, silent.
fn mp3(frames: usize) -> Vec<u8> {
    let mut frame = vec![0; 417];
    frame[..4].copy_from_slice(&[0xFF, 0xFB, 0x90, 0x64]);
    frame.repeat(frames)
}

#[sqlx::test(migrations = "../migrations")]
async fn a_guilds_sounds_are_made_played_back_changed_and_removed(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, guild) = alone(&app).await;
    let path = format!("/guilds/{}/soundboard-sounds", guild.id);
    let body = json!({
        "name": "horn", "volume": 0.5, "emoji_name": "📯", "sound": data_uri(&ogg(1000)),
    });
    let made = app.post(&alice, &path, body).await.expect(201);
    conforms("create_guild_soundboard_sound", 201, &made);
    assert_eq!(
        (&made["volume"], &made["emoji_name"]),
        (&json!(0.5), &json!("📯"))
    );
    let beep = json!({ "name": "beep", "sound": data_uri(&mp3(4)) });
    app.post(&alice, &path, beep).await.expect(201);
    let listed = app.get(&alice, &path).await.expect(200);
    conforms("list_guild_soundboard_sounds", 200, &listed);
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    let id = made["sound_id"].as_str().unwrap();
    let response = app.fetch(&format!("/soundboard-sounds/{id}")).await;
    assert_eq!(response.headers()["content-type"], "audio/ogg");
    assert_eq!(response.bytes().await.unwrap(), ogg(1000));

    let one = format!("{path}/{id}");
    conforms(
        "get_guild_soundboard_sound",
        200,
        &app.get(&alice, &one).await.expect(200),
    );
    let body = json!({ "name": "trumpet", "volume": null, "emoji_name": null });
    let changed = app.patch(&alice, &one, body).await.expect(200);
    conforms("update_guild_soundboard_sound", 200, &changed);
    assert_eq!(
        (&changed["volume"], &changed["emoji_name"]),
        (&json!(1.0), &Value::Null)
    );
    app.delete(&alice, &one).await.expect(204);
    app.get(&alice, &one).await.expect_error(404, 10097);
    assert_eq!(
        app.fetch(&format!("/soundboard-sounds/{id}"))
            .await
            .status(),
        404
    );
    let names: Vec<_> = app
        .event_names(guild.id)
        .await
        .into_iter()
        .filter_map(|name| name.strip_prefix("GUILD_SOUNDBOARD_SOUND_"))
        .collect();
    assert_eq!(names, ["CREATE", "CREATE", "UPDATE", "DELETE"]);
    let defaults = app
        .get(&alice, "/soundboard-default-sounds")
        .await
        .expect(200);
    conforms("get_soundboard_default_sounds", 200, &defaults);
}

#[sqlx::test(migrations = "../migrations")]
async fn wrong_sounds_are_refused(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, guild) = alone(&app).await;
    let path = format!("/guilds/{}/soundboard-sounds", guild.id);
    let sound = data_uri(&ogg(1000));
    for (body, at, code) in [
        (json!({ "sound": sound }), "name", "BASE_TYPE_REQUIRED"),
        (json!({ "name": "horn" }), "sound", "BASE_TYPE_REQUIRED"),
        (
            json!({ "name": "h", "sound": sound }),
            "name",
            "BASE_TYPE_BAD_LENGTH",
        ),
        (
            json!({ "name": "horn", "sound": sound, "volume": 2 }),
            "volume",
            "NUMBER_TYPE_MAX",
        ),
        (
            json!({ "name": "horn", "sound": sound, "volume": -1 }),
            "volume",
            "NUMBER_TYPE_MIN",
        ),
        (
            json!({ "name": "horn", "sound": sound, "emoji_id": "5" }),
            "emoji_id",
            "EMOJI_INVALID",
        ),
        (
            json!({ "name": "horn", "sound": data_uri(b"MZ") }),
            "sound",
            "AUDIO_INVALID",
        ),
        // How long they are cannot be told.
        (
            json!({ "name": "horn", "sound": data_uri(b"ID3\x03\0\0\0\0\0\0\0\0") }),
            "sound",
            "AUDIO_INVALID",
        ),
        (
            json!({ "name": "horn", "sound": data_uri(&ogg(0)) }),
            "sound",
            "AUDIO_INVALID",
        ),
        (
            json!({ "name": "horn", "sound": data_uri(&vec![0; (512 << 10) + 1]) }),
            "sound",
            "BINARY_TYPE_MAX_SIZE",
        ),
    ] {
        app.post(&alice, &path, body).await.expect_fault(at, code);
    }
    let stranger = app.user("stranger").await;
    app.get(&stranger, &path).await.expect_error(403, 50001);
    for long in [ogg(5201), mp3(200)] {
        let body = json!({ "name": "horn", "sound": data_uri(&long) });
        app.post(&alice, &path, body).await.expect_error(400, 50124);
    }
    for short in [ogg(5200), mp3(199)] {
        let body = json!({ "name": "horn", "sound": data_uri(&short) });
        app.post(&alice, &path, body).await.expect(201);
    }
    for index in 0..6 {
        let body = json!({ "name": format!("horn{index}"), "sound": sound });
        app.post(&alice, &path, body).await.expect(201);
    }
    let body = json!({ "name": "horn", "sound": sound });
    app.post(&alice, &path, body).await.expect_error(400, 30045);
}

#[sqlx::test(migrations = "../migrations")]
async fn only_who_is_connected_and_heard_plays_a_sound(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, guild) = hall(&app).await;
    let voice: guildhall_shared::Id<marker::Channel> = app.id();
    sqlx::query("insert into channel (channel_id, guild_id, kind, name) values ($1, $2, 2, 'v')")
        .bind(voice.to_db())
        .bind(guild.id.to_db())
        .execute(&app.db)
        .await
        .unwrap();
    let path = format!("/guilds/{}/soundboard-sounds", guild.id);
    let body = json!({ "name": "horn", "sound": data_uri(&ogg(1000)) });
    let sound = app.post(&alice, &path, body).await.expect(201);
    let play = format!("/channels/{voice}/send-soundboard-sound");
    let body = json!({ "sound_id": sound["sound_id"] });
    app.post(&bob, &play, body.clone())
        .await
        .expect_error(400, 50167);
    sqlx::query(
        "insert into voice_state (guild_id, user_id, channel_id, session_id, alive_until)
         values ($1, $2, $3, 's', now() + interval '1 minute')",
    )
    .bind(guild.id.to_db())
    .bind(bob.id.to_db())
    .bind(voice.to_db())
    .execute(&app.db)
    .await
    .unwrap();
    app.post(&bob, &play, body.clone()).await.expect(204);
    let unknown = json!({ "sound_id": "123456789" });
    app.post(&bob, &play, unknown)
        .await
        .expect_error(404, 10097);
    app.post(&bob, &play, json!({}))
        .await
        .expect_fault("sound_id", "BASE_TYPE_REQUIRED");
    let foreign = json!({ "sound_id": sound["sound_id"], "source_guild_id": "123456789" });
    app.post(&bob, &play, foreign)
        .await
        .expect_error(404, 10004);
    sqlx::query("update voice_state set self_mute = true")
        .execute(&app.db)
        .await
        .unwrap();
    app.post(&bob, &play, body.clone())
        .await
        .expect_error(400, 50167);
    let little = Permissions::VIEW_CHANNEL | Permissions::CONNECT;
    app.everyone_may(guild, little).await;
    app.post(&bob, &play, body).await.expect_error(403, 50013);
}
