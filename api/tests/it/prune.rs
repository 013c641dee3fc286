use guildhall_shared::{Permissions, Timestamp, gateway::EventKind};
use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use time::Duration;

use crate::{
    conformance::conforms,
    harness::{TestApp, alone},
    sessions::change_meanwhile,
    threads::hall,
};

#[sqlx::test(migrations = "../migrations")]
async fn who_was_not_seen_for_long_is_removed(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, hall) = alone(&app).await;
    let mut old = Vec::new();
    for name in ["gone", "holder", "seen", "fresh"] {
        let user = app.user(name).await;
        app.join(&user, hall).await;
        old.push(user);
    }
    let bot = app.bot(&alice, "helper").await;
    app.join(&bot, hall).await;
    let role = app.grant(&old[1], hall, Permissions::empty()).await;
    sqlx::raw_sql(
        "update account set created_at = now() - interval '100 days';
         update member set joined_at = now() - interval '50 days';",
    )
    .execute(&app.db)
    .await
    .unwrap();
    sqlx::query("update member set joined_at = now() where user_id = $1")
        .bind(old[3].id.to_db())
        .execute(&app.db)
        .await
        .unwrap();
    sqlx::query("insert into account_seen values ($1, (now() - interval '3 days')::date)")
        .bind(old[2].id.to_db())
        .execute(&app.db)
        .await
        .unwrap();

    let path = format!("/guilds/{}/prune", hall.id);
    let preview = async |query: &str| {
        let body = app.get(&alice, &format!("{path}{query}")).await.expect(200);
        conforms("preview_prune_guild", 200, &body);
        body["pruned"].as_i64().unwrap()
    };
    assert_eq!(preview("").await, 1);
    assert_eq!(preview("?days=2").await, 2);
    assert_eq!(preview(&format!("?days=2&include_roles={role}")).await, 3);
    assert_eq!(preview("?days=30").await, 1);

    let body = json!({ "days": 7, "include_roles": [role] });
    let done = app.post(&alice, &path, body).await.expect(200);
    conforms("prune_guild", 200, &done);
    assert_eq!(done, json!({ "pruned": 2 }));
    assert_eq!(
        app.event_names(hall.id).await,
        ["GUILD_MEMBER_REMOVE", "GUILD_MEMBER_REMOVE"]
    );
    assert_eq!(app.event_names(old[0].id).await, ["user left guild"]);
    let entry = app.audit(hall.id).await.pop().unwrap();
    assert_eq!(entry["action_type"], 21);
    assert_eq!(
        entry["options"],
        json!({ "delete_member_days": "7", "members_removed": "2" })
    );
    let body = json!({ "compute_prune_count": false });
    let reply = app.post(&alice, &path, body).await.expect(200);
    assert_eq!(reply, json!({ "pruned": null }));

    app.post(&alice, &path, json!({ "days": 31 }))
        .await
        .expect_fault("days", "NUMBER_TYPE_MAX");
    app.get(&alice, &format!("{path}?include_roles=1,x"))
        .await
        .expect_fault("include_roles", "NUMBER_TYPE_COERCE");
    app.get(&old[2], &path).await.expect_error(403, 50013);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_prune_that_breaks_off_tells_how_many_it_removed(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, hall) = alone(&app).await;
    for n in 0..55 {
        let user = app.user(&format!("user-{n}")).await;
        app.join(&user, hall).await;
    }
    sqlx::raw_sql(
        "update account set created_at = now() - interval '100 days';
         update member set joined_at = now() - interval '50 days';
         update member set nick = 'stays' where user_id = (select max(user_id) from member);
         create function refuse() returns trigger language plpgsql as
           $$ begin raise exception 'not this one'; end $$;
         create trigger refuse before delete on member for each row
           when (old.nick = 'stays') execute function refuse();",
    )
    .execute(&app.db)
    .await
    .unwrap();
    let path = format!("/guilds/{}/prune", hall.id);
    app.post(&alice, &path, json!({})).await.expect(500);
    let told = app.audit(hall.id).await;
    let [entry] = told.as_slice() else {
        panic!("{told:#?}");
    };
    let removed = json!({ "delete_member_days": "7", "members_removed": "50" });
    assert_eq!(entry["options"], removed);
    let log = app
        .get(&alice, &format!("/guilds/{}/audit-logs", hall.id))
        .await
        .expect(200);
    assert_eq!(log["audit_log_entries"].as_array().unwrap().len(), 1);
    assert_eq!(log["audit_log_entries"][0]["options"], removed);
    assert_eq!(app.event_names(hall.id).await.len(), 50);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_prune_goes_on_when_its_request_is_given_up(db: PgPool) {
    let app = TestApp::new(db).await;
    let (alice, hall) = alone(&app).await;
    for n in 0..55 {
        let user = app.user(&format!("user-{n}")).await;
        app.join(&user, hall).await;
    }
    sqlx::raw_sql(
        "update account set created_at = now() - interval '100 days';
         update member set joined_at = now() - interval '50 days';",
    )
    .execute(&app.db)
    .await
    .unwrap();
    let path = format!("/guilds/{}/prune", hall.id);
    let held = app.hold(hall.id).await;
    let request = app
        .request_by(&alice, Method::POST, &path)
        .json(&json!({ "compute_prune_count": true }));
    let asked = tokio::spawn(async move { request.send().await });
    app.until_somebody_waits().await;
    asked.abort();
    asked.await.unwrap_err();
    // Its connection is closed before this one has its answer.
    app.get(&alice, &path).await.expect(200);
    held.rollback().await.unwrap();

    let told = app
        .until_told(hall.id, EventKind::GuildAuditLogEntryCreate, 1)
        .await;
    assert_eq!(
        told[0]["options"],
        json!({ "delete_member_days": "7", "members_removed": "55" })
    );
    assert_eq!(
        app.event_names(hall.id).await,
        vec!["GUILD_MEMBER_REMOVE"; 55]
    );
}

#[sqlx::test(migrations = "../migrations")]
async fn a_prune_ends_where_a_role_has_risen_above_the_caller(db: PgPool) {
    let app = TestApp::new(db).await;
    let (_, bob, carol, hall) = hall(&app).await;
    let needed = Permissions::MANAGE_GUILD | Permissions::KICK_MEMBERS;
    app.grant(&bob, hall, needed).await;
    let role = app.grant(&carol, hall, Permissions::empty()).await;
    sqlx::raw_sql(
        "update account set created_at = now() - interval '100 days';
         update member set joined_at = now() - interval '50 days';",
    )
    .execute(&app.db)
    .await
    .unwrap();
    let path = format!("/guilds/{}/prune", hall.id);
    let held = app.hold(hall.id).await;
    let prune = app.post(&bob, &path, json!({ "include_roles": [role] }));
    let rise = "update role set position = 2 where name = 'granted' and permissions = 0";
    let (reply, ()) = tokio::join!(prune, change_meanwhile(&app, held, rise));
    reply.expect_error(403, 50013);
    assert!(app.event_names(hall.id).await.is_empty());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_guild_closes_its_doors_for_a_day_at_most(db: PgPool) {
    let app = TestApp::new(db).await;
    let alice = app.user("alice").await;
    let bob = app.user("bob").await;
    let hall = app.guild(&alice, "Hall").await;
    let path = format!("/guilds/{}/incident-actions", hall.id);
    let hour = Timestamp(Timestamp::now().0 + Duration::hours(1));
    let closed = app
        .put(&alice, &path, json!({ "invites_disabled_until": hour }))
        .await
        .expect(200);
    conforms("update_guild_incident_actions", 200, &closed);
    assert!(closed["invites_disabled_until"].is_string());
    assert_eq!(app.event_names(hall.id).await, ["GUILD_UPDATE"]);
    let invite = app
        .post(
            &alice,
            &format!("/channels/{}/invites", hall.general),
            json!({}),
        )
        .await
        .expect(200);
    let invite = format!("/invites/{}", invite["code"].as_str().unwrap());
    app.post(&bob, &invite, json!({}))
        .await
        .expect_error(404, 10006);
    app.put(&alice, &path, json!({ "invites_disabled_until": null }))
        .await
        .expect(200);
    app.post(&bob, &invite, json!({})).await.expect(200);
    let late = Timestamp(Timestamp::now().0 + Duration::hours(25));
    app.put(&alice, &path, json!({ "dms_disabled_until": late }))
        .await
        .expect_fault("dms_disabled_until", "DATE_TIME_TYPE_TOO_LATE");
    app.put(&bob, &path, json!({}))
        .await
        .expect_error(403, 50013);
}
