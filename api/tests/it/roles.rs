use guildhall_shared::{Permissions, envelope::Visibility, gateway::Intents};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    conformance::conforms,
    harness::{TestApp, TestUser, alone, hall},
    log,
};

#[sqlx::test(migrations = "../migrations")]
async fn roles_are_made_changed_and_deleted(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/guilds/{}/roles", hall.id);
    app.post(&bob, &path, json!({}))
        .await
        .expect_error(403, 50013);
    let body = json!({ "name": "Guards", "permissions": "2", "color": 255, "hoist": true });
    let role = app.post(&alice, &path, body).await.expect(200);
    conforms("create_guild_role", 200, &role);
    assert_eq!(role["colors"]["primary_color"], 255);
    let one = format!("{path}/{}", role["id"].as_str().unwrap());
    let read = app.get(&bob, &one).await.expect(200);
    conforms("get_guild_role", 200, &read);
    assert_eq!(read, role);
    let list = app.get(&bob, &path).await.expect(200);
    conforms("list_guild_roles", 200, &list);
    assert_eq!(list.as_array().unwrap().len(), 2);

    let changed = app
        .patch(&alice, &one, json!({ "name": "Watch", "permissions": 4 }))
        .await
        .expect(200);
    conforms("update_guild_role", 200, &changed);
    assert_eq!(
        (&changed["name"], &changed["color"]),
        (&json!("Watch"), &json!(255))
    );
    app.patch(&alice, &one, json!({ "color": 0x1000000 }))
        .await
        .expect_fault("color", "NUMBER_TYPE_MAX");
    app.patch(&alice, &format!("{path}/5"), json!({}))
        .await
        .expect_error(404, 10011);

    let member_role = format!(
        "/guilds/{}/members/{}/roles/{}",
        hall.id,
        bob.id,
        role["id"].as_str().unwrap()
    );
    app.put(&alice, &member_role, json!({})).await.expect(204);
    let overwrite = format!(
        "/channels/{}/permissions/{}",
        hall.general,
        role["id"].as_str().unwrap()
    );
    app.put(&alice, &overwrite, json!({ "type": 0, "deny": "2048" }))
        .await
        .expect(204);
    app.delete(&alice, &one).await.expect(204);
    app.get(&alice, &one).await.expect_error(404, 10011);
    let member = app
        .get(&alice, &format!("/guilds/{}/members/{}", hall.id, bob.id))
        .await
        .expect(200);
    assert_eq!(member["roles"], json!([]));
    let channel = app
        .get(&bob, &format!("/channels/{}", hall.general))
        .await
        .expect(200);
    assert_eq!(channel["permission_overwrites"], json!([]));

    let events = app.events(hall.id).await;
    let names: Vec<&str> = events.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "GUILD_ROLE_CREATE",
            "GUILD_ROLE_UPDATE",
            "GUILD_MEMBER_UPDATE",
            "CHANNEL_UPDATE",
            "GUILD_ROLE_DELETE",
            "CHANNEL_UPDATE"
        ]
    );
    assert_eq!(events[0].1, json!({ "guild_id": hall.id, "role": role }));
    assert_eq!(
        events[4].1,
        json!({ "guild_id": hall.id, "role_id": role["id"] })
    );
    assert_eq!(events[5].1["id"], json!(hall.general));
    assert_eq!(events[5].1["permission_overwrites"], json!([]));
    let envelopes = log::envelopes(&app.db, hall.id).await;
    assert_eq!(envelopes[4].vis, Visibility::realm(Intents::GUILDS));
}

#[sqlx::test(migrations = "../migrations")]
async fn everyone_is_a_role_that_stays(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let path = format!("/guilds/{0}/roles/{0}", hall.id);
    let body = json!({ "name": "All", "permissions": "1024" });
    let changed = app.patch(&alice, &path, body).await.expect(200);
    assert_eq!(changed["name"], "@everyone");
    assert_eq!(changed["permissions"], "1024");
    app.delete(&alice, &path).await.expect_error(400, 50028);
    let give = format!("/guilds/{0}/members/{1}/roles/{0}", hall.id, alice.id);
    app.put(&alice, &give, json!({}))
        .await
        .expect_error(400, 50028);
}

#[sqlx::test(migrations = "../migrations")]
async fn nobody_reaches_above_their_own_role(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let eve = app.user("eve").await;
    app.join(&eve, hall).await;
    // Of equal positions the older role is the higher one.
    let bobs = app.grant(&bob, hall, Permissions::MANAGE_ROLES).await;
    let path = format!("/guilds/{}/roles", hall.id);
    let create = async |user: &TestUser, body: Value| app.post(user, &path, body).await;
    create(&bob, json!({ "permissions": "8" }))
        .await
        .expect_error(403, 50013);
    let low = create(&bob, json!({ "permissions": "2048" }))
        .await
        .expect(200);
    let low = low["id"].as_str().unwrap();
    let role = |id: &str| format!("{path}/{id}");
    app.patch(&bob, &role(low), json!({ "permissions": "8" }))
        .await
        .expect_error(403, 50013);
    app.patch(&bob, &role(low), json!({ "permissions": "1024" }))
        .await
        .expect(200);
    app.patch(&bob, &role(&bobs.to_string()), json!({ "name": "x" }))
        .await
        .expect_error(403, 50013);
    app.delete(&bob, &role(&bobs.to_string()))
        .await
        .expect_error(403, 50013);

    let member_role = |user: &TestUser, role: &str| {
        format!("/guilds/{}/members/{}/roles/{role}", hall.id, user.id)
    };
    app.put(&bob, &member_role(&eve, &bobs.to_string()), json!({}))
        .await
        .expect_error(403, 50013);
    app.put(&eve, &member_role(&eve, low), json!({}))
        .await
        .expect_error(403, 50013);
    app.put(&bob, &member_role(&eve, low), json!({}))
        .await
        .expect(204);
    app.put(&bob, &member_role(&eve, low), json!({}))
        .await
        .expect(204);
    app.delete(&bob, &member_role(&eve, low)).await.expect(204);
    app.put(&bob, &member_role(&eve, "5"), json!({}))
        .await
        .expect_error(404, 10011);
    app.put(
        &alice,
        &format!("/guilds/{}/members/5/roles/{low}", hall.id),
        json!({}),
    )
    .await
    .expect_error(404, 10007);
    // Giving what is there already is no event.
    let updates = app.event_names(hall.id).await;
    assert_eq!(
        updates
            .iter()
            .filter(|&&name| name == "GUILD_MEMBER_UPDATE")
            .count(),
        2
    );
    let (_, vis) = log::newest(&app, hall.id).await;
    let mut wanted = Visibility::realm(Intents::GUILD_MEMBERS);
    wanted.regardless.push(eve.id);
    assert_eq!(vis, wanted);
}

#[sqlx::test(migrations = "../migrations")]
async fn roles_are_moved_below_the_mover(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, bob, hall) = hall(&app).await;
    let path = format!("/guilds/{}/roles", hall.id);
    let bobs = app.grant(&bob, hall, Permissions::MANAGE_ROLES).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let role = app.post(&alice, &path, json!({})).await.expect(200);
        ids.push(role["id"].as_str().unwrap().to_owned());
    }
    let moved = app
        .patch(
            &alice,
            &path,
            json!([{ "id": bobs, "position": 3 }, { "id": ids[0], "position": 2 }]),
        )
        .await
        .expect(200);
    conforms("bulk_update_guild_roles", 200, &moved);
    let order: Vec<&Value> = moved.as_array().unwrap().iter().map(|r| &r["id"]).collect();
    assert_eq!(
        order,
        [
            &json!(hall.id),
            &json!(ids[1]),
            &json!(ids[0]),
            &json!(bobs)
        ]
    );
    assert_eq!(
        app.event_names(hall.id).await[2..],
        ["GUILD_ROLE_UPDATE", "GUILD_ROLE_UPDATE"]
    );
    let entry = app.audit(hall.id).await.pop().unwrap();
    assert_eq!(entry["action_type"], 31);
    assert_eq!(
        entry["changes"],
        json!([{ "key": "position", "old_value": 1, "new_value": 2 }])
    );

    let refused = [
        (json!([{ "id": bobs, "position": 1 }]), 403, 50013),
        (json!([{ "id": ids[0], "position": 4 }]), 403, 50013),
        (json!([{ "id": hall.id, "position": 1 }]), 400, 50028),
        (json!([{ "id": "5", "position": 1 }]), 404, 10011),
    ];
    for (body, status, code) in refused {
        app.patch(&bob, &path, body)
            .await
            .expect_error(status, code);
    }
    app.patch(&bob, &path, json!([{ "id": ids[0], "position": 1 }]))
        .await
        .expect(200);
    app.patch(&bob, &path, json!([{ "id": ids[0], "position": -1 }]))
        .await
        .expect_fault("0.position", "NUMBER_TYPE_MIN");
    app.patch(&bob, &path, json!({}))
        .await
        .expect_fault("", "LIST_TYPE_CONVERT");
}

#[sqlx::test(migrations = "../migrations")]
async fn colours_come_in_threes(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, hall) = alone(&app).await;
    let path = format!("/guilds/{}/roles", hall.id);
    let colors = json!({ "primary_color": 1, "secondary_color": 2, "tertiary_color": null });
    let role = app
        .post(&alice, &path, json!({ "colors": colors }))
        .await
        .expect(200);
    conforms("create_guild_role", 200, &role);
    let one = format!("{path}/{}", role["id"].as_str().unwrap());
    let read = app.get(&alice, &one).await.expect(200);
    assert_eq!(read["colors"], colors);
    assert_eq!(read["color"], 1);
    let plain = app
        .patch(&alice, &one, json!({ "color": 5 }))
        .await
        .expect(200);
    conforms("update_guild_role", 200, &plain);
    assert_eq!(plain["colors"]["secondary_color"], Value::Null);
    app.patch(
        &alice,
        &one,
        json!({ "colors": { "secondary_color": 16_777_216 } }),
    )
    .await
    .expect_fault("colors.secondary_color", "NUMBER_TYPE_MAX");
}

#[sqlx::test(migrations = "../migrations")]
async fn holders_of_a_role_are_counted_listed_and_added(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bob = app.user("bob").await;
    let eve = app.user("eve").await;
    let hall = app.guild(&alice, "Hall").await;
    app.join(&bob, hall).await;
    let path = format!("/guilds/{}/roles", hall.id);
    let role = app.post(&alice, &path, json!({})).await.expect(200);
    let role = role["id"].as_str().unwrap();
    let added = app
        .patch(
            &alice,
            &format!("{path}/{role}/members"),
            json!({ "member_ids": [bob.id, alice.id, eve.id] }),
        )
        .await
        .expect(200);
    assert_eq!(added.as_object().unwrap().len(), 2);
    assert_eq!(added[bob.id.to_string()]["roles"], json!([role]));
    let counts = app
        .get(&bob, &format!("{path}/member-counts"))
        .await
        .expect(200);
    conforms("guild_role_member_counts", 200, &counts);
    assert_eq!(counts, json!({ role: 2 }));
    let ids = app.get(&alice, &format!("{path}/{role}/member-ids")).await;
    assert_eq!(ids.expect(200), json!([alice.id, bob.id]));
    app.get(&bob, &format!("{path}/{role}/member-ids"))
        .await
        .expect_error(403, 50013);
    let names = app.event_names(hall.id).await;
    assert_eq!(
        names,
        [
            "GUILD_ROLE_CREATE",
            "GUILD_MEMBER_UPDATE",
            "GUILD_MEMBER_UPDATE"
        ]
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn a_role_is_at_no_place_that_libraries_do_not_read(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, _, hall) = hall(&app).await;
    let path = format!("/guilds/{}/roles", hall.id);
    let role = app.post(&alice, &path, json!({ "name": "top" })).await;
    let role = role.expect(200);
    let moves = json!([{ "id": role["id"], "position": 40_000 }]);
    let roles = app.patch(&alice, &path, moves).await.expect(200);
    let top = roles.as_array().unwrap().last().unwrap();
    assert_eq!(
        (&top["id"], &top["position"]),
        (&role["id"], &json!(i16::MAX))
    );
}
