//! Who hears of changed commands: the people of the guilds that have them.

use guildhall_shared::{
    Id,
    envelope::{Envelope, Visibility},
    gateway::{EventKind, Intents},
    id::marker,
};
use serde_json::json;
use sqlx::PgConnection;

use super::place::Place;
use crate::{app::App, error::Result, events, integration};

/// Guilds that are told of a changed global command by one query.
const GUILDS_BATCH: i64 = 1000;

/// Tells the people of the guilds concerned that what they may call has changed: of one guild
/// by a numbered event, of all of an application's guilds best effort, after the commit.
pub(super) async fn announce(db: &mut PgConnection, place: Place) -> Result<Option<Envelope>> {
    let Some(guild) = place.guild else {
        return Ok(None);
    };
    let bots = integration::bots_of(&mut *db, guild).await?;
    let (vis, body) = index_update(guild, bots);
    let kind = EventKind::GuildApplicationCommandIndexUpdate;
    events::append(db, guild, kind, vis, &body, None)
        .await
        .map(Some)
}

fn index_update(
    guild: Id<marker::Guild>,
    bots: Vec<Id<marker::User>>,
) -> (Visibility, serde_json::Value) {
    let mut vis = Visibility::realm(Intents::empty());
    // For people only.
    vis.except = bots;
    (vis, json!({ "guild_id": guild }))
}

/// After the commit of a change: publishes its event, or tells all guilds in the background.
pub(super) fn published(app: &App, place: Place, event: Option<Envelope>) {
    if place.guild.is_some() {
        app.publisher.publish(event);
        return;
    }
    let told = app.clone();
    app.work.spawn(async move {
        let telling = tell_all_guilds(&told, place.application);
        if let Some(Err(error)) = told.stop.run_until_cancelled(telling).await {
            tracing::warn!(?error, "guilds were not told of a changed command");
        }
    });
}

async fn tell_all_guilds(app: &App, application: Id<marker::Application>) -> Result<()> {
    let mut after = 0;
    loop {
        let guilds = sqlx::query!(
            r#"select i.guild_id, (select array_agg(o.application_id) from integration o
                                   where o.guild_id = i.guild_id) as "bots!"
               from integration i
               where i.application_id = $1 and i.guild_id > $2 order by i.guild_id limit $3"#,
            application.to_db(),
            after,
            GUILDS_BATCH,
        )
        .fetch_all(&app.db)
        .await?;
        let Some(last) = guilds.last() else {
            return Ok(());
        };
        after = last.guild_id;
        for row in guilds {
            let guild: Id<marker::Guild> = Id::from_db(row.guild_id);
            let (vis, body) = index_update(guild, guildhall_store::ids_from_db(row.bots));
            let kind = EventKind::GuildApplicationCommandIndexUpdate;
            app.publisher.publish_ephemeral(guild, kind, vis, &body)?;
        }
    }
}
