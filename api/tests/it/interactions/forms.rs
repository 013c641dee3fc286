//! Choices while somebody types, and forms that an application opens.

use guildhall_shared::envelope::Visibility;
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{NOTHING, World, button, text};
use crate::{conformance::conforms, harness::assert_fault, log};

#[sqlx::test(migrations = "../migrations")]
async fn choices_are_told_to_who_types(db: PgPool) {
    let world = World::new(db).await;
    let word = |focused: bool| {
        let options = json!([{ "type": 3, "name": "word", "value": "a", "focused": focused }]);
        world.body(4, world.data(options))
    };
    world
        .post(word(false))
        .await
        .expect_fault("data.options", "BASE_TYPE_REQUIRED");
    let asked = world.act(word(true)).await;
    assert_eq!(asked["type"], 4);
    assert_eq!(asked["data"]["options"][0]["focused"], true);
    let many: Vec<Value> = (0..26)
        .map(|n| json!({ "name": "x", "value": n.to_string() }))
        .collect();
    for (choices, path, code) in [
        (json!(many), "data.choices", "BASE_TYPE_MAX_LENGTH"),
        (
            json!([{ "value": "a" }]),
            "data.choices.0.name",
            "BASE_TYPE_REQUIRED",
        ),
        (
            json!([{ "name": "A", "value": 5 }]),
            "data.choices.0.value",
            "STRING_TYPE_CONVERT",
        ),
    ] {
        let body = json!({ "type": 8, "data": { "choices": choices } });
        world.answer(&asked, body).await.expect_fault(path, code);
    }
    let odd = json!([{ "name": "A", "value": "a", "name_localizations": { "xx": "B" } }]);
    let body = json!({ "type": 8, "data": { "choices": odd } });
    world
        .answer(&asked, body)
        .await
        .expect_fault("data.choices.0.name_localizations", "ENUM_TYPE_COERCE");
    // What no choice has does not reach the user.
    let given = json!([{ "name": "A", "value": "a", "name_localizations": { "de": "B" },
        "surprise": [[[]]] }]);
    let body = json!({ "type": 8, "data": { "choices": given } });
    let result = world.answer(&asked, body).await.expect(200);
    conforms("create_interaction_response", 200, &result);
    let (name, told) = world.newest_user_event().await;
    assert_eq!(name, "APPLICATION_COMMAND_AUTOCOMPLETE_RESPONSE");
    let choices = json!([{ "name": "A", "value": "a", "name_localizations": { "de": "B" } }]);
    assert_eq!(told, json!({ "choices": choices, "nonce": "7" }));
    let vis = log::newest(&world.app, world.alice.id).await.1;
    assert_eq!(vis, Visibility::users(vec![world.alice.id]));
    // Who types has called nothing: no message follows.
    let more = json!({ "content": "they typed" });
    world
        .hook(Method::POST, &asked, "", more)
        .await
        .expect_error(404, 10015);
    assert_eq!(world.list().await, json!([]));
}

fn label(component: Value) -> Value {
    json!({ "type": 18, "label": "L", "component": component })
}

#[sqlx::test(migrations = "../migrations")]
async fn a_form_is_opened_filled_in_and_answered(db: PgPool) {
    let world = World::new(db).await;
    let called = world.call().await;
    let form = json!({ "type": 9, "data": { "custom_id": "f", "title": "Form", "components": [
        { "type": 1, "components": [
            { "type": 4, "custom_id": "t", "style": 1, "label": "Text", "max_length": 9 }] }] } });
    let bad = json!({ "type": 9, "data": { "custom_id": "f", "components": [{ "type": 2 }] } });
    let bad = world.answer(&called, bad).await;
    let bad = bad.expect_fault("data.title", "BASE_TYPE_REQUIRED");
    assert_fault(&bad, "data.components.0.type", "BASE_TYPE_CHOICES");
    let result = world.answer(&called, form).await.expect(200);
    conforms("create_interaction_response", 200, &result);
    let events = world.app.events(world.alice.id).await;
    let opened = events
        .iter()
        .find(|(name, _)| *name == "INTERACTION_MODAL_CREATE");
    let opened = &opened.unwrap().1;
    assert_eq!(opened["id"], called["id"]);
    assert_eq!(
        (&opened["title"], &opened["nonce"]),
        (&json!("Form"), &json!("7"))
    );
    assert_eq!(opened["application"]["id"], json!(world.bot.id));
    assert_eq!(opened["channel_id"], json!(world.guild.general));

    let submit = |value: &str| {
        let input = json!({ "type": 4, "custom_id": "t", "value": value });
        let written = json!([{ "type": 1, "components": [input] }]);
        let data = json!({ "id": called["id"], "custom_id": "f", "components": written });
        world.body(5, data)
    };
    let path = "data.components.0.components.0.value";
    world
        .post(submit(""))
        .await
        .expect_fault(path, "BASE_TYPE_REQUIRED");
    let long = "x".repeat(10);
    world
        .post(submit(&long))
        .await
        .expect_fault(path, "BASE_TYPE_MAX_LENGTH");
    let mut other = submit("hello");
    other["data"]["id"] = json!(NOTHING);
    world.post(other).await.expect_error(404, 10062);
    let bob = world.member("bob").await;
    world
        .app
        .post(&bob, "/interactions", submit("mine"))
        .await
        .expect_error(404, 10062);
    let sent = world.act(submit("hello")).await;
    assert_eq!(sent["type"], 5);
    assert_eq!(
        sent["data"]["components"][0]["components"][0]["value"],
        "hello"
    );
    let again = json!({ "type": 9, "data": { "custom_id": "f", "title": "Form",
        "components": [{ "type": 10, "content": "x" }] } });
    world
        .answer(&sent, again)
        .await
        .expect_fault("type", "INTERACTION_RESPONSE_TYPE_INVALID");
    let body = json!({ "type": 4, "data": { "content": "thanks" } });
    let result = world.answer(&sent, body).await.expect(200);
    conforms("create_interaction_response", 200, &result);
    let metadata = &result["resource"]["message"]["interaction_metadata"];
    assert_eq!(
        metadata["triggering_interaction_metadata"]["id"],
        called["id"]
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn a_form_is_sent_once_unless_nobody_answers(db: PgPool) {
    let world = World::new(db).await;
    let called = world.call().await;
    let form = json!({ "type": 9, "data": { "custom_id": "f", "title": "Form",
        "components": [label(json!({ "type": 23, "custom_id": "box" }))] } });
    world.answer(&called, form).await.expect(200);
    let submit = || {
        let checked = json!({ "type": 23, "custom_id": "box", "value": true });
        let written = json!([{ "type": 18, "component": checked }]);
        let data = json!({ "id": called["id"], "custom_id": "f", "components": written });
        world.post(world.body(5, data))
    };
    // Both have found it unsent.
    let mut held = world.app.db.begin().await.unwrap();
    sqlx::query("select from interaction for update")
        .execute(&mut *held)
        .await
        .unwrap();
    let both = "select count(*) = 2 from pg_stat_activity
                where datname = current_database() and wait_event_type = 'Lock'";
    let release = async {
        world.app.until(both).await;
        held.rollback().await.unwrap();
    };
    let (one, other, ()) = tokio::join!(submit(), submit(), release);
    let (taken, refused) = match one.status.as_u16() {
        204 => (one, other),
        _ => (other, one),
    };
    taken.expect(204);
    refused.expect_error(404, 10062);
    for (state, status) in [(1, 404), (2, 204)] {
        let over = format!("update interaction set state = {state} where kind = 5");
        sqlx::raw_sql(sqlx::AssertSqlSafe(over))
            .execute(&world.app.db)
            .await
            .unwrap();
        submit().await.expect(status);
    }
    let told = world.app.events(world.guild.id).await;
    let forms = told
        .iter()
        .filter(|(name, body)| *name == "INTERACTION_CREATE" && body["type"] == 5);
    assert_eq!(forms.count(), 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_form_has_fields_of_all_kinds(db: PgPool) {
    let world = World::new(db).await;
    let message = world.panel(json!([button("go")])).await;
    let go = world.press(&message, json!({ "component_type": 2, "custom_id": "go" }));
    let pressed = world.act(go).await;
    let options = json!([{ "label": "A", "value": "a" }, { "label": "B", "value": "b" }]);
    let fields = json!([
        { "type": 10, "content": "Read\u{0} this", "surprise": [[[]]] },
        label(json!({ "type": 3, "custom_id": "select", "options": options })),
        label(json!({ "type": 5, "custom_id": "user" })),
        label(json!({ "type": 21, "custom_id": "radio", "options": options })),
        label(json!({ "type": 22, "custom_id": "boxes", "options": options, "required": false })),
        label(json!({ "type": 23, "custom_id": "box" })),
        label(json!({ "type": 19, "custom_id": "file" })),
    ]);
    let twice = json!([
        label(json!({ "type": 23, "custom_id": "x" })),
        label(json!({ "type": 23, "custom_id": "x" }))
    ]);
    let one = json!([label(json!({ "type": 21, "custom_id": "x",
        "options": [{ "label": "A", "value": "a" }] }))]);
    let open = |components: &Value| json!({ "type": 9, "data": { "custom_id": "f", "title": "F", "components": components } });
    world.answer(&pressed, open(&twice)).await.expect_fault(
        "data.components.1.component.custom_id",
        "COMPONENT_CUSTOM_ID_DUPLICATED",
    );
    world.answer(&pressed, open(&one)).await.expect_fault(
        "data.components.0.component.options",
        "BASE_TYPE_BAD_LENGTH",
    );
    let disguised = json!([label(json!({ "type": 3, "custom_id": "x",
        "options": [{ "label": "A", "value": "a", "emoji": 5 }] }))]);
    world.answer(&pressed, open(&disguised)).await.expect_fault(
        "data.components.0.component.options.0.emoji",
        "MODEL_TYPE_CONVERT",
    );
    let impossible = json!([
        label(json!({ "type": 4, "custom_id": "t", "style": 1, "min_length": 9, "max_length": 2 })),
        label(json!({ "type": 19, "custom_id": "f", "min_values": 3 })),
        label(
            json!({ "type": 22, "custom_id": "b", "min_values": 2, "max_values": 1,
            "options": options })
        ),
        label(json!({ "type": 22, "custom_id": "good", "min_values": 2, "options": options })),
    ]);
    let refused = world.answer(&pressed, open(&impossible)).await;
    let path = "data.components.0.component.min_length";
    let refused = refused.expect_fault(path, "NUMBER_TYPE_MAX");
    for index in [1, 2] {
        let path = format!("data.components.{index}.component.min_values");
        assert_fault(&refused, &path, "NUMBER_TYPE_MAX");
    }
    assert!(refused["errors"]["data"]["components"].get("3").is_none());
    world.answer(&pressed, open(&fields)).await.expect(200);
    let events = world.app.events(world.alice.id).await;
    let mut opened = events.iter().rev();
    let opened = opened.find(|(name, _)| *name == "INTERACTION_MODAL_CREATE");
    let first = &opened.unwrap().1["components"][0];
    assert_eq!(
        *first,
        json!({ "type": 10, "id": 1, "content": "Read this" })
    );

    let field = |kind: u8, id: &str, key: &str, value: Value| {
        let mut component = json!({ "type": kind, "custom_id": id });
        component[key] = value;
        json!({ "type": 18, "component": component })
    };
    let submit = |radio: &str, file: &str| {
        let written = json!([
            field(3, "select", "values", json!(["b"])),
            field(5, "user", "values", json!([world.alice.id])),
            field(21, "radio", "value", json!(radio)),
            field(23, "box", "value", json!(true)),
            field(19, "file", "values", json!([file])),
        ]);
        let data = json!({ "id": pressed["id"], "custom_id": "f", "components": written,
            "attachments": [{ "id": "3", "filename": "a.txt" }] });
        let form = Form::new()
            .text("payload_json", world.body(5, data).to_string())
            .part("files[3]", Part::text("hello").file_name("a.txt"));
        let request = world
            .app
            .request_by(&world.alice, Method::POST, "/interactions");
        request.multipart(form)
    };
    let refused = world.app.send(submit("c", "5")).await;
    let refused = refused.expect_fault("data.components.3.component.value", "ENUM_TYPE_COERCE");
    let path = "data.components.6.component.values.0";
    assert_fault(&refused, path, "ATTACHMENT_NOT_FOUND");
    world.app.send(submit("a", "3")).await.expect(204);
    let sent = world.newest_interaction(world.guild.id).await;
    assert_eq!(sent["message"]["id"], message);
    let written = &sent["data"]["components"];
    let of = |index: usize| &written[index]["component"];
    assert_eq!(of(1)["values"], json!(["b"]));
    assert_eq!(of(3)["value"], "a");
    assert_eq!(of(4)["values"], json!([]));
    assert_eq!(of(5)["value"], true);
    let resolved = &sent["data"]["resolved"];
    let file = &resolved["attachments"][text(&of(6)["values"][0])];
    assert_eq!(file["filename"], "a.txt");
    assert!(resolved["users"].get(world.alice.id.to_string()).is_some());
    let body = json!({ "type": 7, "data": { "content": "filled in" } });
    world.answer(&sent, body).await.expect(200);
    assert_eq!(world.list().await[0]["content"], "filled in");
}
