//! What a user asks of an application, checked against what the application offered.

use guildhall_shared::{
    Id, Permissions,
    command_access::Asker,
    error_code::ErrorCode,
    id::marker::{self, Application},
    model::{Command, CommandKind, Message, MessageKind},
};
use serde_json::{Map, Value, json};
use sqlx::PgConnection;

use super::{
    Context, Kind, Source, components,
    create::Data,
    message::{self, Shown},
    options::{self, Resolved},
    submit,
};
use crate::{
    access::Place,
    auth::CurrentUser,
    error::Result,
    form::{Fault, FormErrors},
    media::Media,
    routes::{
        commands::{self, CallContext, Presence},
        oauth2,
    },
};

/// What is sent to the application besides what all interactions have.
pub(super) struct Action {
    pub(super) data: Value,
    pub(super) context: Context,
    /// Of a component or of a form that one opened.
    pub(super) message: Option<Message>,
    /// `authorizing_integration_owners`: by whose installation the application is here.
    pub(super) owners: Value,
}

/// What a user asks of an application, and where.
pub(super) struct Asked<'a> {
    pub(super) media: &'a Media,
    pub(super) caller: &'a CurrentUser,
    pub(super) place: &'a Place,
    pub(super) application: Id<Application>,
    /// Whether it is in the place.
    pub(super) presence: Presence,
    pub(super) data: &'a Data,
}

impl Asked<'_> {
    /// Errors: 10002 for an application that is neither in the place nor the caller's own, 10063,
    /// 50013, 50035.
    pub(super) async fn command(
        &self,
        db: &mut PgConnection,
        kind: Kind,
        mut resolved: Resolved,
    ) -> Result<Action> {
        let Self { place, data, .. } = *self;
        let id = data.id.ok_or(ErrorCode::UnknownApplicationCommand)?;
        let command = commands::find(&mut *db, self.application, id.cast()).await?;
        if command.guild_id.is_some() && command.guild_id != place.guild_id() {
            return Err(ErrorCode::UnknownApplicationCommand.into());
        }
        if data
            .version
            .is_some_and(|version| version != command.version)
        {
            let message = "This command is outdated, please try again in a few minutes";
            let code = "INTERACTION_APPLICATION_COMMAND_INVALID_VERSION";
            return Err(FormErrors::one("data", Fault::Other(code, message.into())));
        }
        let owners = self.owners(db, &command).await?;
        let mut form = FormErrors::new();
        if let Some(kind) = data.kind.filter(|kind| *kind != command.kind.0) {
            form.add("data.type", Fault::NotEnum(kind.to_string()));
        }
        let is_partial = kind == Kind::AUTOCOMPLETE;
        let given = options::Given {
            options: &data.options,
            is_partial,
        };
        let written = given.check(&command.body.options, &mut form, &mut resolved);
        let mut metadata = json!({ "name": command.name, "command_type": command.kind });
        match command.kind {
            CommandKind::USER | CommandKind::MESSAGE => {
                if let Some(&target) = form.required("data.target_id", &data.target_id) {
                    if command.kind == CommandKind::USER {
                        resolved.want_user(target, "data.target_id");
                    } else {
                        resolved.want_message(target, "data.target_id");
                        metadata["target_message_id"] = json!(target);
                    }
                }
            }
            _ => {}
        }
        let focused = written.focused;
        let full_name = written.full_name(&command.name);
        if is_partial && focused.is_none() {
            let message = "One option must be focused";
            form.add(
                "data.options",
                Fault::Other("BASE_TYPE_REQUIRED", message.into()),
            );
        }
        form.finish()?;
        let resolved = resolved
            .read(self.media, db, self.caller, self.application, place)
            .await?;
        let mut sent = json!({
            "id": command.id,
            "name": command.name,
            "type": command.kind,
        });
        if !written.options.is_empty() {
            sent["options"] = Value::Array(written.options);
        }
        if let Some(guild) = command.guild_id {
            sent["guild_id"] = json!(guild);
        }
        if let Some(target) = data
            .target_id
            .filter(|_| command.kind != CommandKind::CHAT_INPUT)
        {
            sent["target_id"] = json!(target);
            if command.kind == CommandKind::USER {
                metadata["target_user"] = resolved["users"][target.to_string()].clone();
            }
        }
        add_resolved(&mut sent, resolved);
        let message_kind = match command.kind {
            CommandKind::USER | CommandKind::MESSAGE => MessageKind::CONTEXT_MENU_COMMAND,
            _ => MessageKind::CHAT_INPUT_COMMAND,
        };
        let context = Context {
            metadata,
            legacy: Some(json!({ "name": full_name })),
            message_kind,
            focused,
            ..Context::default()
        };
        Ok(Action {
            data: sent,
            context,
            message: None,
            owners,
        })
    }

    /// Errors: 10002 for an application that is not in the place, unless a user brought its
    /// message there; 10008, 50035.
    pub(super) async fn component(
        &self,
        db: &mut PgConnection,
        id: Id<marker::Message>,
        mut resolved: Resolved,
    ) -> Result<Action> {
        let Self { place, data, .. } = *self;
        let shown = self.shown(db, id).await?;
        let Shown {
            message,
            is_ephemeral,
        } = shown.ok_or(ErrorCode::UnknownMessage)?;
        let owner = message.application_id.unwrap_or(message.author.id.cast());
        if owner != self.application {
            return Err(ErrorCode::UnknownMessage.into());
        }
        if !is_ephemeral {
            let needed = Permissions::VIEW_CHANNEL | Permissions::READ_MESSAGE_HISTORY;
            place.require(needed)?;
        }
        let custom_id = data.custom_id.as_deref().unwrap_or_default();
        let metadata = message.interaction_metadata.as_ref();
        let owners = self.owners_by(metadata)?;
        let used = components::check_use(
            &message.components,
            custom_id,
            data.component_type.unwrap_or_default(),
            &data.values,
            &mut resolved,
        )?;
        let resolved = resolved
            .read(self.media, db, self.caller, self.application, place)
            .await?;
        let mut sent = json!({
            "custom_id": custom_id,
            "component_type": used.kind,
            "id": used.id,
        });
        if used.is_select {
            sent["values"] = json!(data.values);
        }
        add_resolved(&mut sent, resolved);
        let context = Context {
            metadata: json!({ "interacted_message_id": id }),
            source: Some(Source {
                message: id,
                is_ephemeral,
            }),
            ..Context::default()
        };
        Ok(Action {
            data: sent,
            context,
            message: Some(*message),
            owners,
        })
    }

    /// Errors: 10062, 50035.
    pub(super) async fn modal(
        &self,
        db: &mut PgConnection,
        mut resolved: Resolved,
    ) -> Result<Action> {
        let Self { place, data, .. } = *self;
        let opened = data.id.ok_or(ErrorCode::UnknownInteraction)?;
        let row = super::find(db, opened.cast()).await?;
        let row = row.filter(|row| {
            row.user == self.caller.id
                && row.application == self.application
                && row.channel == place.id()
        });
        let row = row.ok_or(ErrorCode::UnknownInteraction)?;
        let owners = self.owners_by(Some(&row.context.metadata))?;
        let form = row.context.modal.ok_or(ErrorCode::UnknownInteraction)?;
        if Some(form["custom_id"].as_str().unwrap_or_default()) != data.custom_id.as_deref() {
            return Err(ErrorCode::UnknownInteraction.into());
        }
        let components = submit::check(&form["components"], &data.components, &mut resolved)?;
        let resolved = resolved
            .read(self.media, db, self.caller, self.application, place)
            .await?;
        let mut sent = json!({ "custom_id": data.custom_id, "components": components });
        add_resolved(&mut sent, resolved);
        let message = match row.context.source {
            Some(source) => {
                let shown = self.shown(db, source.message).await?;
                shown.map(|shown| *shown.message)
            }
            None => None,
        };
        let context = Context {
            metadata: json!({ "triggering_interaction_metadata": row.context.metadata }),
            source: row.context.source.filter(|_| message.is_some()),
            ..Context::default()
        };
        Ok(Action {
            data: sent,
            context,
            message,
            owners,
        })
    }

    /// By whose installation the caller may use a command here: that of the place, their own.
    ///
    /// Errors: 10002 if there is none, 50013.
    async fn owners(&self, db: &mut PgConnection, command: &Command) -> Result<Value> {
        let Self { place, .. } = *self;
        let is_here = self.presence != Presence::Outside;
        let is_own = (commands::is_portable(command) || !is_here)
            && oauth2::is_installed(&mut *db, self.caller.id, self.application).await?;
        if !is_here && !is_own {
            return Err(ErrorCode::UnknownApplication.into());
        }
        let is_of_age = !command.body.nsfw || place.is_nsfw() || place.guild().is_none();
        let by_place = is_here && self.is_usable_here(db, command).await?;
        let held = place.guild().map(|_| place.permissions());
        let context = CallContext::of(place, self.presence);
        let by_user = is_own && commands::is_usable_by_installer(command, context, held);
        if !is_of_age || !by_place && !by_user {
            return Err(ErrorCode::MissingPermissions.into());
        }
        let mut owners = json!({});
        if by_place {
            owners["0"] = owner_of(place);
        }
        if by_user {
            owners["1"] = json!(self.caller.id);
        }
        Ok(owners)
    }

    /// Whether the application being in the place lets the caller use a command.
    async fn is_usable_here(&self, db: &mut PgConnection, command: &Command) -> Result<bool> {
        let Self { place, .. } = *self;
        let Some(guild) = place.guild() else {
            return Ok(commands::is_usable_in_dm(command));
        };
        let ruled = match place {
            Place::Thread(access) => access.parent.id,
            Place::Channel(_) | Place::Private(_) => place.id(),
        };
        let asker = Asker {
            guild: guild.id,
            user: guild.user,
            roles: &guild.member.roles,
            held: place.permissions(),
            channel: Some(ruled),
        };
        let applications = [command.application_id.to_db()];
        let set = commands::rules(db, guild.id, &applications).await?;
        Ok(commands::is_usable(asker, &set, command))
    }

    /// By whose installation a message or a form of the application is here; `metadata` says it
    /// of one that answered an interaction.
    ///
    /// Errors: 10002 if there is none.
    fn owners_by(&self, metadata: Option<&Value>) -> Result<Value> {
        let said = metadata.map(|metadata| &metadata["authorizing_integration_owners"]);
        let said = said.filter(|owners| owners.is_object());
        match (said, self.presence) {
            (Some(owners), Presence::There | Presence::Commands) => Ok(owners.clone()),
            (Some(owners), Presence::Outside) if !owners["1"].is_null() => Ok(owners.clone()),
            (None, Presence::There | Presence::Commands) => {
                Ok(json!({ "0": owner_of(self.place) }))
            }
            (_, Presence::Outside) => Err(ErrorCode::UnknownApplication.into()),
        }
    }

    /// A message of this place that the caller can see.
    async fn shown(&self, db: &mut PgConnection, id: Id<marker::Message>) -> Result<Option<Shown>> {
        let (user, bot) = (self.caller.id, self.application.cast());
        message::shown_to(self.media, db, user, bot, self.place.id(), id).await
    }
}

fn add_resolved(sent: &mut Value, resolved: Value) {
    let is_empty = resolved.as_object().is_none_or(Map::is_empty);
    if !is_empty {
        sent["resolved"] = resolved;
    }
}

/// Where the application is installed that is in this place: in the guild, or with its bot's
/// direct messages.
fn owner_of(place: &Place) -> Value {
    match place.guild_id() {
        Some(guild) => json!(guild),
        None => json!("0"),
    }
}
