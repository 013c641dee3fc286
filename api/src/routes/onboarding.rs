//! Questions to newcomers, whose answers give roles and show channels. Spec: objects.md ›
//! Onboarding.

use std::collections::BTreeSet;

use axum::extract::State;
use guildhall_shared::{
    Id, Permissions,
    error_code::ErrorCode,
    id::marker::{Any, Channel, Guild, Role},
    model::{AuditAction, ChannelKind, present},
    permissions::Overwrite,
};
use guildhall_store::{ids_from_db, ids_to_db};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json as Jsonb};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::guilds::{self, update::set_feature};
use crate::{
    access::{self, GuildAccess},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    error::Result,
    extract::{Form, Json, Path, null_is_default},
    form::{Fault, FormErrors},
    text::clean,
};

const PROMPTS_MAX: usize = 15;
const OPTIONS_MAX: usize = 50;
const CHANNELS_MAX: usize = 500;
/// Channels that newcomers see, and those among them in which they can write.
const CHANNELS_SEEN_MIN: usize = 7;
const CHANNELS_WRITTEN_MIN: usize = 5;
/// Mode in which the channels of prompts count too.
const MODE_ADVANCED: u8 = 1;

pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get_guilds_onboarding, put_guilds_onboarding))
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
struct Onboarding {
    guild_id: Id<Guild>,
    prompts: Vec<Prompt>,
    default_channel_ids: Vec<Id<Channel>>,
    enabled: bool,
    /// 0: only default channels count for the requirements; 1: those of prompts too.
    mode: u8,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
struct Prompt {
    id: Id<Any>,
    title: String,
    options: Vec<PromptOption>,
    single_select: bool,
    required: bool,
    in_onboarding: bool,
    /// 0 choices, 1 a menu.
    #[serde(rename = "type")]
    kind: u8,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
struct PromptOption {
    id: Id<Any>,
    title: String,
    description: String,
    emoji: PromptEmoji,
    role_ids: Vec<Id<Role>>,
    channel_ids: Vec<Id<Channel>>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
struct PromptEmoji {
    id: Option<Id<Any>>,
    name: Option<String>,
    animated: bool,
}

async fn read(db: &mut PgConnection, guild_id: Id<Guild>) -> Result<Onboarding> {
    let row = sqlx::query!(
        r#"select enabled, mode, default_channel_ids, prompts as "prompts: Jsonb<Vec<Prompt>>"
           from onboarding where guild_id = $1"#,
        guild_id.to_db(),
    )
    .fetch_optional(db)
    .await?;
    Ok(match row {
        Some(row) => Onboarding {
            guild_id,
            prompts: row.prompts.0,
            default_channel_ids: ids_from_db(row.default_channel_ids),
            enabled: row.enabled,
            mode: row.mode as u8,
        },
        None => Onboarding {
            guild_id,
            prompts: Vec::new(),
            default_channel_ids: Vec::new(),
            enabled: false,
            mode: 0,
        },
    })
}

/// What it names of roles and channels that the guild no longer has: nothing is rewritten when
/// they are deleted.
async fn gone(
    db: &mut PgConnection,
    access: &GuildAccess,
    onboarding: &Onboarding,
) -> Result<BTreeSet<Id<Any>>> {
    let mut channels = onboarding.default_channel_ids.clone();
    channels.extend(onboarding.options().flat_map(|option| &option.channel_ids));
    let there = sqlx::query_scalar!(
        "select channel_id from channel where guild_id = $1 and channel_id = any($2)",
        access.id.to_db(),
        &ids_to_db(&channels),
    )
    .fetch_all(db)
    .await?;
    let there: BTreeSet<Id<Channel>> = there.into_iter().map(Id::from_db).collect();
    let roles = onboarding.options().flat_map(|option| &option.role_ids);
    let roles = roles.filter(|&&role| access.role(role).is_none());
    let channels = channels
        .iter()
        .filter(|&channel| !there.contains(channel))
        .map(|channel| channel.cast::<Any>());
    Ok(roles
        .map(|role| role.cast::<Any>())
        .chain(channels)
        .collect())
}

impl Onboarding {
    fn options(&self) -> impl Iterator<Item = &PromptOption> {
        self.prompts.iter().flat_map(|prompt| &prompt.options)
    }

    /// An option that is left with nothing stays, for whoever manages the guild to fill or remove.
    fn forget(&mut self, gone: &BTreeSet<Id<Any>>) {
        self.default_channel_ids
            .retain(|channel| !gone.contains(&channel.cast()));
        for option in self
            .prompts
            .iter_mut()
            .flat_map(|prompt| &mut prompt.options)
        {
            option.role_ids.retain(|role| !gone.contains(&role.cast()));
            option
                .channel_ids
                .retain(|channel| !gone.contains(&channel.cast()));
        }
    }
}

impl PromptOption {
    fn is_empty(&self) -> bool {
        self.role_ids.is_empty() && self.channel_ids.is_empty()
    }
}

/// Errors: 10004, 50001.
#[utoipa::path(
    get,
    path = "/guilds/{guild_id}/onboarding",
    tag = "Guilds",
    responses((status = 200, body = Onboarding))
)]
async fn get_guilds_onboarding(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
) -> Result<Json<Onboarding>> {
    let mut db = app.db.acquire().await?;
    let access = access::guild(&mut *db, &user, guild_id, Permissions::empty()).await?;
    let mut onboarding = read(&mut db, guild_id).await?;
    let gone = gone(&mut db, &access, &onboarding).await?;
    onboarding.forget(&gone);
    Ok(Json(onboarding))
}

/// Absent: as it is; null: none.
#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
struct PutOnboarding {
    /// At most 15.
    #[serde(deserialize_with = "present")]
    prompts: Option<Option<Vec<NewPrompt>>>,
    #[serde(deserialize_with = "present")]
    enabled: Option<Option<bool>>,
    #[serde(deserialize_with = "present")]
    default_channel_ids: Option<Option<Vec<Id<Channel>>>>,
    #[serde(deserialize_with = "present")]
    mode: Option<Option<u8>>,
}

#[derive(Debug, Serialize, Deserialize, Default, ToSchema)]
#[serde(default)]
struct NewPrompt {
    /// One that is there, or any number for a new one.
    id: Option<Id<Any>>,
    #[schema(required, min_length = 1, max_length = 100)]
    title: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    options: Vec<NewOption>,
    single_select: Option<bool>,
    required: Option<bool>,
    in_onboarding: Option<bool>,
    #[serde(rename = "type")]
    kind: Option<u8>,
}

#[derive(Debug, Serialize, Deserialize, Default, ToSchema)]
#[serde(default)]
struct NewOption {
    id: Option<Id<Any>>,
    #[schema(required, min_length = 1, max_length = 50)]
    title: Option<String>,
    /// At most 100 characters.
    description: Option<String>,
    emoji_id: Option<Id<Any>>,
    emoji_name: Option<String>,
    emoji_animated: Option<bool>,
    #[serde(deserialize_with = "null_is_default")]
    role_ids: Vec<Id<Role>>,
    #[serde(deserialize_with = "null_is_default")]
    channel_ids: Vec<Id<Channel>>,
}

impl Form for PutOnboarding {
    fn check(&self, form: &mut FormErrors) {
        if let Some(mode) = self.mode.flatten().filter(|&mode| mode > MODE_ADVANCED) {
            form.add("mode", Fault::NotEnum(mode.to_string()));
        }
        let channels = self.default_channel_ids.iter().flatten();
        let channels: usize = channels.map(Vec::len).sum();
        let prompts: usize = self.prompts.iter().flatten().map(Vec::len).sum();
        for (path, length, max) in [
            ("default_channel_ids", channels, CHANNELS_MAX),
            ("prompts", prompts, PROMPTS_MAX),
        ] {
            if length > max {
                form.add(path, Fault::BadLength { min: 0, max });
            }
        }
        let prompts = self.prompts.iter().flatten().flatten().take(PROMPTS_MAX);
        for (index, prompt) in prompts.enumerate() {
            prompt.check(&format!("prompts.{index}"), form);
        }
    }
}

impl NewPrompt {
    fn check(&self, at: &str, form: &mut FormErrors) {
        form.required(&format!("{at}.id"), &self.id);
        if let Some(title) = form.required(&format!("{at}.title"), &self.title) {
            form.length(&format!("{at}.title"), title, 1..=100);
        }
        if let Some(kind) = self.kind.filter(|&kind| kind > 1) {
            form.add(format!("{at}.type"), Fault::NotEnum(kind.to_string()));
        }
        let options = format!("{at}.options");
        if self.options.is_empty() {
            form.add(options, Fault::Required);
            return;
        }
        if self.options.len() > OPTIONS_MAX {
            let max = OPTIONS_MAX;
            form.add(options, Fault::BadLength { min: 1, max });
            return;
        }
        for (index, option) in self.options.iter().enumerate() {
            option.check(&format!("{options}.{index}"), form);
        }
    }
}

impl NewOption {
    fn check(&self, at: &str, form: &mut FormErrors) {
        if let Some(title) = form.required(&format!("{at}.title"), &self.title) {
            form.length(&format!("{at}.title"), title, 1..=50);
        }
        if let Some(description) = &self.description {
            form.length(&format!("{at}.description"), description, 0..=100);
        }
        if let Some(name) = &self.emoji_name {
            form.length(&format!("{at}.emoji_name"), name, 0..=100);
        }
        for (field, length) in [
            ("role_ids", self.role_ids.len()),
            ("channel_ids", self.channel_ids.len()),
        ] {
            if length > 50 {
                form.add(
                    format!("{at}.{field}"),
                    Fault::BadLength { min: 0, max: 50 },
                );
            }
        }
    }
}

/// Ids of prompts and options that are known stay, each once; others are given anew. What an option
/// has already is not looked at again: its roles may be above the caller, or deleted.
///
/// Errors: 10004, 50001, 50013, 50035, 350000 when it is on and too few channels are seen.
#[utoipa::path(
    put,
    path = "/guilds/{guild_id}/onboarding",
    tag = "Guilds",
    responses((status = 200, body = Onboarding))
)]
async fn put_guilds_onboarding(
    State(app): State<App>,
    user: CurrentUser,
    Path(guild_id): Path<Id<Guild>>,
    reason: Reason,
    Json(body): Json<PutOnboarding>,
) -> Result<Json<Onboarding>> {
    let mut tx = app.db.begin().await?;
    let needed = Permissions::MANAGE_GUILD | Permissions::MANAGE_ROLES;
    let access = access::guild_for_change(&mut tx, &user, guild_id, needed).await?;
    let mut before = read(&mut tx, guild_id).await?;
    let gone = gone(&mut tx, &access, &before).await?;
    before.forget(&gone);
    let mut after = before.clone();
    if let Some(prompts) = body.prompts {
        after.prompts = new_prompts(&app, &before, prompts.unwrap_or_default())?;
    }
    if let Some(channels) = body.default_channel_ids {
        after.default_channel_ids = channels.unwrap_or_default();
    }
    if let Some(enabled) = body.enabled {
        after.enabled = enabled.unwrap_or_default();
    }
    if let Some(mode) = body.mode {
        after.mode = mode.unwrap_or_default();
    }
    // Of a client that read it before they were deleted.
    after.forget(&gone);
    check(&mut tx, &access, &before, &after).await?;
    if after == before {
        return Ok(Json(after));
    }
    sqlx::query!(
        "insert into onboarding (guild_id, enabled, mode, default_channel_ids, prompts)
         values ($1, $2, $3, $4, $5)
         on conflict (guild_id) do update
         set enabled = excluded.enabled, mode = excluded.mode,
             default_channel_ids = excluded.default_channel_ids, prompts = excluded.prompts",
        guild_id.to_db(),
        after.enabled,
        i16::from(after.mode),
        &ids_to_db(&after.default_channel_ids),
        Jsonb(&after.prompts) as Jsonb<&Vec<Prompt>>,
    )
    .execute(&mut *tx)
    .await?;
    let (mut guild, _) = guilds::by_id(&mut tx, guild_id).await?;
    let settings = &mut guild.settings;
    set_feature(settings, "GUILD_ONBOARDING", after.enabled);
    let asks = after.prompts.iter().any(|prompt| prompt.in_onboarding);
    set_feature(settings, "GUILD_ONBOARDING_HAS_PROMPTS", asks);
    let mut events = vec![guilds::store(&mut tx, &guild).await?];
    for entry in entries(guild_id, &user, &reason, &before, &after)? {
        events.extend(audit::append(&app, &mut tx, entry).await?);
    }
    tx.commit().await?;
    app.publisher.publish(events);
    Ok(Json(after))
}

fn new_prompts(app: &App, before: &Onboarding, prompts: Vec<NewPrompt>) -> Result<Vec<Prompt>> {
    let cleaned = |text: Option<String>| clean(&text.unwrap_or_default());
    let mut taken = BTreeSet::new();
    let mut kept = |id: Option<Id<Any>>, known: Vec<Id<Any>>| match id {
        Some(id) if known.contains(&id) && taken.insert(id) => Ok(id),
        _ => app.snowflakes.next(),
    };
    prompts
        .into_iter()
        .map(|prompt| {
            let known = before.prompts.iter().map(|prompt| prompt.id).collect();
            let id = kept(prompt.id, known)?;
            let old = before.prompts.iter().find(|old| old.id == id);
            let options = prompt.options.into_iter().map(|option| {
                let olds = old.into_iter().flat_map(|old| &old.options);
                Ok(PromptOption {
                    id: kept(option.id, olds.map(|option| option.id).collect())?,
                    title: cleaned(option.title),
                    description: cleaned(option.description),
                    emoji: PromptEmoji {
                        id: option.emoji_id,
                        name: option.emoji_name.map(|name| clean(&name)),
                        animated: option.emoji_animated.unwrap_or_default(),
                    },
                    role_ids: option.role_ids,
                    channel_ids: option.channel_ids,
                })
            });
            Ok(Prompt {
                id,
                title: cleaned(prompt.title),
                options: options.collect::<Result<_>>()?,
                single_select: prompt.single_select.unwrap_or_default(),
                required: prompt.required.unwrap_or_default(),
                in_onboarding: prompt.in_onboarding.unwrap_or_default(),
                kind: prompt.kind.unwrap_or_default(),
            })
        })
        .collect()
}

/// New roles are the caller's to give, channels the guild's; and newcomers see enough of them.
async fn check(
    db: &mut PgConnection,
    access: &GuildAccess,
    before: &Onboarding,
    wanted: &Onboarding,
) -> Result<()> {
    let channels = sqlx::query!(
        r#"select channel_id, kind, overwrites as "overwrites: Jsonb<Vec<Overwrite>>"
           from channel where guild_id = $1"#,
        access.id.to_db(),
    )
    .fetch_all(db)
    .await?;
    let ids: BTreeSet<Id<Channel>> = channels
        .iter()
        .map(|row| Id::from_db(row.channel_id))
        .collect();
    let unknown = |form: &mut FormErrors, path: String| {
        let message = "This is no channel of the guild that fits.";
        form.add(path, Fault::Other("CHANNEL_INVALID", message.into()));
    };
    let mut form = FormErrors::new();
    for (index, channel) in wanted.default_channel_ids.iter().enumerate() {
        if !ids.contains(channel) {
            unknown(&mut form, format!("default_channel_ids.{index}"));
        }
    }
    let mut shown: BTreeSet<Id<Channel>> = wanted.default_channel_ids.iter().copied().collect();
    for (p, prompt) in wanted.prompts.iter().enumerate() {
        for (o, option) in prompt.options.iter().enumerate() {
            let at = format!("prompts.{p}.options.{o}");
            let old = before.options().find(|old| old.id == option.id);
            if option.is_empty() && !old.is_some_and(PromptOption::is_empty) {
                let message = "An option gives a role or shows a channel.";
                let fault = Fault::Other("ONBOARDING_OPTION_EMPTY", message.into());
                form.add(at.as_str(), fault);
            }
            for (index, &role) in option.role_ids.iter().enumerate() {
                if old.is_some_and(|old| old.role_ids.contains(&role)) {
                    continue;
                }
                let fits = access.role(role).is_some_and(|found| {
                    !found.managed && role.cast() != access.id && access.rank() > found.rank()
                });
                if !fits {
                    let message = "This is no role that you can give.";
                    let fault = Fault::Other("ROLE_INVALID", message.into());
                    form.add(format!("{at}.role_ids.{index}"), fault);
                }
            }
            for (index, channel) in option.channel_ids.iter().enumerate() {
                if !ids.contains(channel) {
                    unknown(&mut form, format!("{at}.channel_ids.{index}"));
                } else if wanted.mode == MODE_ADVANCED {
                    shown.insert(*channel);
                }
            }
        }
    }
    form.finish()?;
    if !wanted.enabled {
        return Ok(());
    }
    let everyone = access.role(access.id.cast());
    let base = everyone.map_or(Permissions::empty(), |role| role.permissions);
    let (mut seen, mut written) = (0, 0);
    for row in &channels {
        if !shown.contains(&Id::from_db(row.channel_id)) {
            continue;
        }
        let kind = ChannelKind(row.kind as u8);
        let held = access::of_everyone(access.id, base, kind, &row.overwrites.0);
        seen += usize::from(held.contains(Permissions::VIEW_CHANNEL));
        written += usize::from(
            held.contains(Permissions::VIEW_CHANNEL | Permissions::SEND_MESSAGES)
                && kind.has_messages(),
        );
    }
    if seen < CHANNELS_SEEN_MIN || written < CHANNELS_WRITTEN_MIN {
        return Err(ErrorCode::OnboardingRequirements.into());
    }
    Ok(())
}

/// An entry for each prompt made, changed or gone, and one for the rest.
fn entries(
    guild: Id<Guild>,
    user: &CurrentUser,
    reason: &Reason,
    before: &Onboarding,
    after: &Onboarding,
) -> Result<Vec<Entry>> {
    let entry = |action| Entry::new(guild, user.id, action, reason);
    let mut entries = Vec::new();
    for prompt in &after.prompts {
        let old = before.prompts.iter().find(|old| old.id == prompt.id);
        entries.push(match old {
            None => entry(AuditAction::ONBOARDING_PROMPT_CREATE).created(prompt)?,
            Some(old) => entry(AuditAction::ONBOARDING_PROMPT_UPDATE).changed(old, prompt)?,
        });
    }
    for old in &before.prompts {
        if !after.prompts.iter().any(|prompt| prompt.id == old.id) {
            entries.push(entry(AuditAction::ONBOARDING_PROMPT_DELETE).deleted(old)?);
        }
    }
    let rest = |onboarding: &Onboarding| {
        serde_json::json!({
            "default_channel_ids": onboarding.default_channel_ids,
            "enabled": onboarding.enabled,
            "mode": onboarding.mode,
        })
    };
    entries.push(entry(AuditAction::ONBOARDING_UPDATE).changed(&rest(before), &rest(after))?);
    Ok(entries)
}
