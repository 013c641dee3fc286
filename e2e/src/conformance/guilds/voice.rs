//! Stages and voice.

use serde_json::{Value, json};

use super::{Book, Proof, World, scheduled_events::in_days};
use crate::client;

pub(super) async fn prove(world: &World, book: &mut Book) {
    stages(world, book).await;
    voice(world, book).await;
}

async fn stages(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let Some(stage) = world.channel_of_type(13).await else {
        return;
    };
    let one = format!("/stage-instances/{stage}");
    let is_it = |d: &Value| d["channel_id"] == stage.as_str();
    book.prove("create_stage_instance", async |p: &mut Proof| {
        let form = json!({"channel_id": stage, "topic": "a play"});
        p.refuses(
            member.rest.post("/stage-instances", &form).await,
            403,
            50013,
        );
        let made = p.answers(bot.rest.post("/stage-instances", &form).await);
        p.acts(made["topic"] == "a play", "the topic reads");
        p.event(&[owner, member], "STAGE_INSTANCE_CREATE", is_it)
            .await;
        p.nobody_else(&[stranger], "STAGE_INSTANCE_CREATE", is_it)
            .await;
        p.faults(
            bot.rest
                .post("/stage-instances", &json!({"channel_id": stage}))
                .await,
            "topic",
            "BASE_TYPE_REQUIRED",
        );
    })
    .await;
    book.prove("get_stage_instance", async |p: &mut Proof| {
        let read = p.answers(member.rest.get(&one).await);
        p.acts(read["topic"] == "a play", "the topic reads");
        p.refuses(stranger.rest.get(&one).await, 403, 50001);
    })
    .await;
    book.prove("update_stage_instance", async |p: &mut Proof| {
        let changed = p.answers(bot.rest.patch(&one, &json!({"topic": "a dance"})).await);
        p.acts(changed["topic"] == "a dance", "the topic changes");
        p.event(&[owner, member], "STAGE_INSTANCE_UPDATE", is_it)
            .await;
        p.refuses(
            member.rest.patch(&one, &json!({"topic": "x"})).await,
            403,
            50013,
        );
    })
    .await;
    book.prove("delete_stage_instance", async |p: &mut Proof| {
        p.refuses(member.rest.delete(&one).await, 403, 50013);
        p.answers(bot.rest.delete(&one).await);
        p.event(&[owner, member], "STAGE_INSTANCE_DELETE", is_it)
            .await;
        p.acts(member.rest.get(&one).await.code() == 10067, "it is gone");
    })
    .await;
}

async fn voice(world: &World, book: &mut Book) {
    let [owner, member, stranger, bot] = world.people();
    let guild = &world.guild;
    let path = format!("/guilds/{}/voice-states", guild.id);
    let Some(hall) = world.channel_of_type(13).await else {
        return;
    };
    member.session.send(&client::voice(&guild.id, Some(&hall)));
    let there = |d: &Value| d["user_id"] == member.id.as_str() && d["channel_id"] == hall.as_str();
    book.prove("get_voice_state", async |p: &mut Proof| {
        p.event(&[owner, bot, member], "VOICE_STATE_UPDATE", there)
            .await;
        p.nobody_else(&[stranger], "VOICE_STATE_UPDATE", there)
            .await;
        let read = p.answers(bot.rest.get(&format!("{path}/{}", member.id)).await);
        p.acts(there(&read), "the state reads");
        p.refuses(
            bot.rest.get(&format!("{path}/{}", owner.id)).await,
            404,
            10065,
        );
        p.refuses(
            stranger.rest.get(&format!("{path}/{}", member.id)).await,
            403,
            50001,
        );
    })
    .await;
    book.prove("get_self_voice_state", async |p: &mut Proof| {
        let read = p.answers(member.rest.get(&format!("{path}/@me")).await);
        p.acts(there(&read), "the state reads");
        p.refuses(bot.rest.get(&format!("{path}/@me")).await, 404, 10065);
    })
    .await;
    book.prove("update_self_voice_state", async |p: &mut Proof| {
        let now = json!({"channel_id": hall, "request_to_speak_timestamp": in_days(0)});
        p.answers(member.rest.patch(&format!("{path}/@me"), &now).await);
        let asked = |d: &Value| there(d) && d["request_to_speak_timestamp"].is_string();
        p.event(&[owner, bot], "VOICE_STATE_UPDATE", asked).await;
        let speak = json!({"channel_id": hall, "suppress": false});
        p.refuses(
            member.rest.patch(&format!("{path}/@me"), &speak).await,
            403,
            50013,
        );
    })
    .await;
    book.prove("update_voice_state", async |p: &mut Proof| {
        let one = format!("{path}/{}", member.id);
        let speak = json!({"channel_id": hall, "suppress": false});
        p.refuses(stranger.rest.patch(&one, &speak).await, 403, 50001);
        p.answers(bot.rest.patch(&one, &speak).await);
        let speaks = |d: &Value| there(d) && d["suppress"] == false;
        p.event(&[owner, member], "VOICE_STATE_UPDATE", speaks)
            .await;
        p.acts(
            bot.rest.get(&one).await.body["suppress"] == false,
            "the member may speak",
        );
    })
    .await;
}
