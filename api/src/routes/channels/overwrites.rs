//! Permission overwrites of guild channels. Spec: permissions.md › Hierarchy.

use axum::{extract::State, http::StatusCode};
use guildhall_shared::{
    Id, Permissions,
    envelope::Envelope,
    error_code::ErrorCode,
    id::marker::{self, Target},
    model::{AuditAction, Channel, ChannelKind},
    permissions::{Overwrite, OverwriteKind, overwrites_need},
};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;

use super::{
    fields::OverwriteFields,
    stored::{add_last_message, overwrites_above, store},
};
use crate::{
    access::{self, ChannelAccess, GuildAccess},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Path},
    form::{Fault, FormErrors},
};

/// Of one channel; a request lists fewer.
const CHANNEL_OVERWRITES_MAX: usize = 1000;

/// Whose id it is: what is no role is a member.
fn kind_of(access: &GuildAccess, id: Id<Target>) -> OverwriteKind {
    match access.role(id.cast()) {
        Some(_) => OverwriteKind::Role,
        None => OverwriteKind::Member,
    }
}

/// Overwrites with their kinds, one per target.
///
/// Errors: 50035 for a kind that is not the target's: such an overwrite would apply to nobody.
pub(super) fn complete(access: &GuildAccess, wanted: &[OverwriteFields]) -> Result<Vec<Overwrite>> {
    let mut form = FormErrors::new();
    let mut complete: Vec<Overwrite> = Vec::with_capacity(wanted.len());
    for (index, fields) in wanted.iter().enumerate() {
        let kind = kind_of(access, fields.id);
        if fields.kind.is_some_and(|given| given != kind) {
            let message = match kind {
                OverwriteKind::Role => "This is a role.",
                OverwriteKind::Member => "This is no role.",
            };
            let fault = Fault::Other("CHANNEL_OVERWRITE_TYPE_INVALID", message.into());
            form.add(format!("permission_overwrites.{index}.type"), fault);
        }
        complete.retain(|other| other.id != fields.id);
        complete.push(fields.of_kind(kind));
    }
    form.finish()?;
    Ok(complete)
}

/// Whether they are the same, in whatever order.
pub(super) fn are_same(before: &[Overwrite], after: &[Overwrite]) -> bool {
    before.len() == after.len() && before.iter().all(|overwrite| after.contains(overwrite))
}

/// What the caller may give and take by overwrites of a channel: the bits that they hold in the
/// guild or in the channel's category. `above`: the category's overwrites, none without one.
pub(super) fn may_give(guild: &GuildAccess, above: &[Overwrite]) -> Permissions {
    guild.base() | guild.in_channel(ChannelKind::CATEGORY, above)
}

/// Whether the caller may change the overwrites so: MANAGE_ROLES here, and the changed bits among
/// those that they [`may_give`], unless an overwrite here gives MANAGE_ROLES to the caller.
///
/// Errors: 50013, 60003.
pub(super) fn check_overwrites(
    access: &ChannelAccess,
    above: &[Overwrite],
    after: &[Overwrite],
) -> Result<()> {
    access.require(Permissions::MANAGE_ROLES)?;
    let (guild, before) = (&access.guild, &access.channel.permission_overwrites);
    let needed = overwrites_need(guild.id, guild.access(), before, after);
    guild.require_one_of(may_give(guild, above), &[needed])
}

/// Gives a category's new overwrites to the channels in it that had its old ones.
pub(super) async fn sync_children(
    db: &mut PgConnection,
    before: &Channel,
    after: &Channel,
) -> Result<Vec<Envelope>> {
    if after.kind != ChannelKind::CATEGORY
        || before.permission_overwrites == after.permission_overwrites
    {
        return Ok(Vec::new());
    }
    let old = &before.permission_overwrites;
    let mut events = Vec::new();
    for mut child in guildhall_store::guild::channels(&mut *db, after.guild_id).await? {
        if child.parent_id == Some(after.id) && are_same(&child.permission_overwrites, old) {
            child.permission_overwrites = after.permission_overwrites.clone();
            events.push(store(db, &child).await?);
        }
    }
    Ok(events)
}

/// An entry for each overwrite that the caller made, changed or took away.
pub(super) async fn audit_overwrites(
    app: &App,
    db: &mut PgConnection,
    access: &ChannelAccess,
    after: &Channel,
    reason: &Reason,
) -> Result<Vec<Envelope>> {
    let (before, after) = (
        &access.channel.permission_overwrites,
        &after.permission_overwrites,
    );
    let find = |list: &[Overwrite], id| list.iter().find(|overwrite| overwrite.id == id).copied();
    let kept = before.iter().map(|old| (Some(*old), find(after, old.id)));
    let made = after
        .iter()
        .filter(|new| find(before, new.id).is_none())
        .map(|new| (None, Some(*new)));
    let mut events = Vec::new();
    for (old, new) in kept.chain(made) {
        if old == new {
            continue;
        }
        let (Some(overwrite), action) = (match (old, new) {
            (None, new) => (new, AuditAction::CHANNEL_OVERWRITE_CREATE),
            (old, None) => (old, AuditAction::CHANNEL_OVERWRITE_DELETE),
            (_, new) => (new, AuditAction::CHANNEL_OVERWRITE_UPDATE),
        }) else {
            continue;
        };
        let mut entry = Entry::new(access.guild.id, access.guild.user, action, reason)
            .target(access.channel.id)
            .option("id", overwrite.id)
            .option("type", overwrite.kind as u8);
        if overwrite.kind == OverwriteKind::Role {
            let name = sqlx::query_scalar!(
                "select name from role where guild_id = $1 and role_id = $2",
                access.guild.id.to_db(),
                overwrite.id.to_db(),
            )
            .fetch_optional(&mut *db)
            .await?;
            entry = entry.option("role_name", name.unwrap_or_default());
        }
        events.extend(audit::append(app, db, entry.changed(&old, &new)?).await?);
    }
    Ok(events)
}

#[derive(Debug, Serialize, Deserialize, Default, ToSchema)]
#[serde(default)]
#[schema(as = SetOverwriteRequest)]
pub(super) struct SetOverwrite {
    #[serde(rename = "type")]
    kind: Option<OverwriteKind>,
    allow: Permissions,
    deny: Permissions,
}

impl Form for SetOverwrite {}

/// Errors: 10003, 10009 (no such role, or no such member), 30060 above 1000 overwrites, 50001,
/// 50013, 50035 (also for a type that is not the target's).
#[utoipa::path(
    put,
    path = "/channels/{channel_id}/permissions/{overwrite_id}",
    tag = "Channels",
    responses((status = 204, description = "It is set"))
)]
pub(super) async fn set_channel_permission_overwrite(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, overwrite_id)): Path<(Id<marker::Channel>, Id<Target>)>,
    reason: Reason,
    Json(body): Json<SetOverwrite>,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_ROLES;
    let access = access::channel_for_change(&mut tx, &user, channel_id, needed).await?;
    let kind = kind_of(&access.guild, overwrite_id);
    let is_known = body.kind.is_none_or(|given| given == kind)
        && match kind {
            OverwriteKind::Role => true,
            OverwriteKind::Member => {
                let (guild, user) = (access.guild.id, overwrite_id.cast());
                let member = guildhall_store::guild::member(&mut *tx, guild, user).await?;
                member.is_some()
            }
        };
    if !is_known {
        return Err(ErrorCode::UnknownOverwrite.into());
    }
    let new = OverwriteFields {
        id: overwrite_id,
        kind: body.kind,
        allow: body.allow,
        deny: body.deny,
    };
    let mut wanted = access.channel.permission_overwrites.clone();
    wanted.retain(|overwrite| overwrite.id != overwrite_id);
    wanted.push(new.of_kind(kind));
    if wanted.len() > CHANNEL_OVERWRITES_MAX {
        return Err(ErrorCode::MaximumOverwrites.into());
    }
    change_overwrites(&app, tx, access, wanted, &reason).await
}

/// Errors: 10003, 10009, 50001, 50013.
#[utoipa::path(
    delete,
    path = "/channels/{channel_id}/permissions/{overwrite_id}",
    tag = "Channels",
    responses((status = 204, description = "It is gone"))
)]
pub(super) async fn delete_channel_permission_overwrite(
    State(app): State<App>,
    user: CurrentUser,
    Path((channel_id, overwrite_id)): Path<(Id<marker::Channel>, Id<Target>)>,
    reason: Reason,
) -> Result<StatusCode> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_ROLES;
    let access = access::channel_for_change(&mut tx, &user, channel_id, needed).await?;
    let mut wanted = access.channel.permission_overwrites.clone();
    wanted.retain(|overwrite| overwrite.id != overwrite_id);
    if wanted.len() == access.channel.permission_overwrites.len() {
        return Err(ErrorCode::UnknownOverwrite.into());
    }
    change_overwrites(&app, tx, access, wanted, &reason).await
}

async fn change_overwrites(
    app: &App,
    mut tx: sqlx::Transaction<'_, sqlx::Postgres>,
    access: ChannelAccess,
    wanted: Vec<Overwrite>,
    reason: &Reason,
) -> Result<StatusCode> {
    let above = overwrites_above(&mut tx, &access.channel).await?;
    check_overwrites(&access, &above, &wanted)?;
    let mut channel = access.channel.clone();
    channel.permission_overwrites = wanted;
    add_last_message(&mut tx, &mut channel).await?;
    let mut events = vec![store(&mut tx, &channel).await?];
    events.extend(sync_children(&mut tx, &access.channel, &channel).await?);
    events.extend(audit_overwrites(app, &mut tx, &access, &channel, reason).await?);
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use guildhall_shared::permissions::changed_bits;

    use super::*;

    fn overwrite(id: u64, kind: OverwriteKind, deny: Permissions) -> Overwrite {
        Overwrite {
            id: Id::new(id).unwrap(),
            kind,
            allow: Permissions::empty(),
            deny,
        }
    }

    #[test]
    fn what_is_of_another_kind_is_another_overwrite() {
        let view = Permissions::VIEW_CHANNEL;
        let role = [overwrite(1, OverwriteKind::Role, view)];
        let member = [overwrite(1, OverwriteKind::Member, view)];
        assert_eq!(changed_bits(&role, &member), view);
        assert_eq!(changed_bits(&member, &role), view);
        assert_eq!(changed_bits(&role, &role), Permissions::empty());
        assert!(!are_same(&role, &member));
    }

    #[test]
    fn the_order_of_overwrites_is_no_difference() {
        let (none, view) = (Permissions::empty(), Permissions::VIEW_CHANNEL);
        let mut list = [
            overwrite(1, OverwriteKind::Role, view),
            overwrite(2, OverwriteKind::Member, none),
        ];
        let before = list;
        list.reverse();
        assert!(are_same(&before, &list));
        assert_eq!(changed_bits(&before, &list), none);
        // One that says nothing is one all the same.
        assert!(!are_same(&before, &list[1..]));
    }
}
