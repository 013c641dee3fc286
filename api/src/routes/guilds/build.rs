//! A guild made from a plan: the caller's own (POST /guilds) or a template's.
//!
//! Plans name roles and channels by placeholder; real ids are given here.

use std::collections::{HashMap, HashSet};

use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    gateway::EventKind,
    id::marker::{self, Target},
    model::{Channel, ChannelKind, ChannelSettings, Guild, GuildSettings, Role, RoleColors},
    permissions::{Overwrite, OverwriteKind},
    shard::realm,
};
use serde::{Deserialize, Serialize};
use sqlx::types::Json as Jsonb;
use utoipa::ToSchema;

use super::{
    super::{
        channels::stored::{
            self, CATEGORIES_MAX, CATEGORY_CHANNELS_MAX, CATEGORY_FULL, TOO_MANY_CATEGORIES,
        },
        members, roles,
    },
    by_id,
};
use crate::{
    access, account,
    app::App,
    auth::CurrentUser,
    error::Result,
    events,
    form::{Fault, FormErrors},
};

pub(crate) const ROLES_MAX: usize = 250;
pub(crate) const CHANNELS_MAX: usize = 500;

/// A placeholder id: any text or number, meant only within its plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(from = "RawKey")]
#[schema(value_type = String)]
pub(crate) struct Key(pub(crate) String);

#[derive(Deserialize)]
#[serde(untagged)]
enum RawKey {
    Number(u64),
    Text(String),
}

impl From<RawKey> for Key {
    fn from(key: RawKey) -> Self {
        match key {
            RawKey::Number(number) => Self(number.to_string()),
            RawKey::Text(text) => Self(text),
        }
    }
}

/// A role of a plan.
#[derive(Debug, Clone, Default)]
pub(crate) struct RolePlan {
    pub(crate) key: Option<Key>,
    pub(crate) name: String,
    pub(crate) permissions: Permissions,
    pub(crate) colors: RoleColors,
    pub(crate) hoist: bool,
    pub(crate) mentionable: bool,
    pub(crate) unicode_emoji: Option<String>,
}

/// A channel of a plan.
#[derive(Debug, Clone)]
pub(crate) struct ChannelPlan {
    pub(crate) key: Option<Key>,
    pub(crate) kind: ChannelKind,
    pub(crate) name: String,
    pub(crate) parent: Option<Key>,
    /// Of roles only: there are no members yet.
    pub(crate) overwrites: Vec<(Key, Permissions, Permissions)>,
    pub(crate) settings: ChannelSettings,
}

/// A guild that is to be.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    /// Hash of a stored image.
    pub(crate) icon: Option<String>,
    pub(crate) settings: GuildSettings,
    /// The first is @everyone.
    pub(crate) roles: Vec<RolePlan>,
    /// In the order of their positions.
    pub(crate) channels: Vec<ChannelPlan>,
    pub(crate) afk_channel: Option<Key>,
    pub(crate) system_channel: Option<Key>,
}

impl Plan {
    /// Placeholders that name nothing in the plan, or two things, and categories that are too full
    /// or too many.
    pub(crate) fn check(&self, form: &mut FormErrors) {
        let roles = self.roles.iter().map(|plan| plan.key.as_ref());
        check_distinct("roles", roles, form);
        let channels = self.channels.iter().map(|plan| plan.key.as_ref());
        check_distinct("channels", channels, form);
        let categories = self.channels.iter().filter(|plan| plan.is_category());
        let categories: Vec<&Key> = categories.filter_map(|plan| plan.key.as_ref()).collect();
        let numbered = self.channels.iter().enumerate();
        let categories_at = numbered.filter(|(_, plan)| plan.is_category());
        for (index, _) in categories_at.skip(CATEGORIES_MAX) {
            let (code, message) = TOO_MANY_CATEGORIES;
            let fault = Fault::Other(code, message.into());
            form.add(format!("channels.{index}.type"), fault);
        }
        for (index, channel) in self.channels.iter().enumerate() {
            let fits = |parent| !channel.is_category() && categories.contains(&parent);
            let Some(parent) = &channel.parent else {
                continue;
            };
            let at = format!("channels.{index}.parent_id");
            if !fits(parent) {
                form.add(at, not_there());
                continue;
            }
            let before = self.channels[..index].iter();
            let inside = before.filter(|other| other.parent.as_ref() == Some(parent));
            if inside.count() >= CATEGORY_CHANNELS_MAX {
                let (code, message) = CATEGORY_FULL;
                form.add(at, Fault::Other(code, message.into()));
            }
        }
        for (path, key, kind) in [
            ("afk_channel_id", &self.afk_channel, ChannelKind::VOICE),
            ("system_channel_id", &self.system_channel, ChannelKind::TEXT),
        ] {
            let Some(key) = key else { continue };
            let mut named = self.channels.iter();
            if !named.any(|plan| plan.key.as_ref() == Some(key) && plan.kind == kind) {
                form.add(path, not_there());
            }
        }
    }
}

impl ChannelPlan {
    fn is_category(&self) -> bool {
        self.kind == ChannelKind::CATEGORY
    }
}

fn check_distinct<'a>(
    list: &str,
    keys: impl Iterator<Item = Option<&'a Key>>,
    form: &mut FormErrors,
) {
    let mut known = HashSet::new();
    for (index, key) in keys.enumerate() {
        if key.is_some_and(|key| !known.insert(key)) {
            let message = "The set already contains this value";
            let fault = Fault::Other("SET_TYPE_ALREADY_CONTAINS_VALUE", message.into());
            form.add(format!("{list}.{index}.id"), fault);
        }
    }
}

fn not_there() -> Fault {
    Fault::Other("CHANNEL_INVALID", "No channel of this request fits.".into())
}

/// Makes the guild with its owner as only member, who learns of it by an event in their realm.
///
/// Errors: 10013 for who has deleted their account, 30001.
pub(crate) async fn build(
    app: &App,
    owner: &CurrentUser,
    id: Id<marker::Guild>,
    plan: Plan,
) -> Result<Guild> {
    let (roles, role_ids) = make_roles(app, id, &plan.roles)?;
    let (channels, channel_ids) = make_channels(app, id, &plan.channels, &role_ids)?;
    let id_of = |key: &Option<Key>| key.as_ref().and_then(|key| channel_ids.get(key).copied());
    let settings = GuildSettings {
        afk_channel_id: id_of(&plan.afk_channel),
        system_channel_id: id_of(&plan.system_channel),
        ..plan.settings
    };

    let mut tx = app.db.begin().await?;
    // The user's head first: it is the older, smaller id.
    access::lock_realms(&mut tx, [realm(owner.id)]).await?;
    account::require_not_deleted(&mut tx, owner.id).await?;
    members::check_guild_count(&mut tx, owner.id).await?;
    sqlx::query!(
        "insert into guild (guild_id, name, owner_id, description, icon, member_count, settings)
         values ($1, $2, $3, $4, $5, 1, $6)",
        id.to_db(),
        plan.name,
        owner.id.to_db(),
        plan.description,
        plan.icon,
        Jsonb(&settings) as Jsonb<&GuildSettings>,
    )
    .execute(&mut *tx)
    .await?;
    events::create_realm(&mut tx, id, app.shards()).await?;
    for role in &roles {
        roles::insert(&mut tx, id, role).await?;
    }
    for channel in &channels {
        stored::insert(&mut tx, channel).await?;
    }
    sqlx::query!(
        "insert into member (guild_id, user_id) values ($1, $2)",
        id.to_db(),
        owner.id.to_db(),
    )
    .execute(&mut *tx)
    .await?;
    let (guild, _) = by_id(&mut tx, id).await?;
    let event = members::tell_user(&mut tx, id, owner.id, EventKind::UserJoinedGuild).await?;
    tx.commit().await?;
    app.publisher.publish([event]);
    Ok(guild)
}

/// What was made of a plan, and the ids by their placeholders.
type Made<T, M> = (Vec<T>, HashMap<Key, Id<M>>);

fn make_roles(
    app: &App,
    guild: Id<marker::Guild>,
    plans: &[RolePlan],
) -> Result<Made<Role, marker::Role>> {
    if plans.len() > ROLES_MAX {
        return Err(ErrorCode::MaximumRoles.into());
    }
    let mut ids = HashMap::new();
    let mut roles = Vec::with_capacity(plans.len());
    for (position, plan) in plans.iter().enumerate() {
        let id = match position {
            0 => guild.cast(),
            _ => app.snowflakes.next()?,
        };
        if let Some(key) = &plan.key {
            ids.insert(key.clone(), id);
        }
        roles.push(Role {
            id,
            name: match position {
                0 => "@everyone".to_owned(),
                _ => plan.name.clone(),
            },
            color: plan.colors.primary_color,
            colors: plan.colors,
            hoist: plan.hoist && position > 0,
            icon: None,
            unicode_emoji: plan.unicode_emoji.clone(),
            position: position as i32,
            permissions: plan.permissions,
            managed: false,
            mentionable: plan.mentionable && position > 0,
            tags: None,
            flags: 0,
        });
    }
    Ok((roles, ids))
}

fn make_channels(
    app: &App,
    guild: Id<marker::Guild>,
    plans: &[ChannelPlan],
    roles: &HashMap<Key, Id<marker::Role>>,
) -> Result<Made<Channel, marker::Channel>> {
    if plans.len() > CHANNELS_MAX {
        return Err(ErrorCode::MaximumChannels.into());
    }
    let mut ids = HashMap::new();
    let mut own = Vec::with_capacity(plans.len());
    for plan in plans {
        let id: Id<marker::Channel> = app.snowflakes.next()?;
        if let Some(key) = &plan.key {
            ids.insert(key.clone(), id);
        }
        own.push(id);
    }
    let mut positions: HashMap<(bool, Option<&Key>), i32> = HashMap::new();
    let mut channels = Vec::with_capacity(plans.len());
    for (plan, id) in plans.iter().zip(own) {
        let position = positions
            .entry((plan.is_category(), plan.parent.as_ref()))
            .or_default();
        // One per role; what is both allowed and denied would be allowed anyway.
        let mut overwrites: Vec<Overwrite> = Vec::with_capacity(plan.overwrites.len());
        for (role, allow, deny) in &plan.overwrites {
            let Some(role) = roles.get(role) else {
                continue;
            };
            let id: Id<Target> = role.cast();
            overwrites.retain(|other| other.id != id);
            overwrites.push(Overwrite {
                id,
                kind: OverwriteKind::Role,
                allow: *allow,
                deny: *deny - *allow,
            });
        }
        let mut settings = plan.settings.clone();
        for tag in settings.available_tags.iter_mut().flatten() {
            tag.id = app.snowflakes.next()?;
        }
        channels.push(Channel {
            id,
            kind: plan.kind,
            guild_id: guild,
            name: plan.name.clone(),
            position: *position,
            parent_id: plan.parent.as_ref().and_then(|key| ids.get(key).copied()),
            permission_overwrites: overwrites,
            last_message_id: None,
            settings,
        });
        *position += 1;
    }
    Ok((channels, ids))
}
