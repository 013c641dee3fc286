//! What a user asks of an application, checked against what the application offered.

use guildhall_shared::{
    Id, Permissions,
    command_access::Asker,
    error_code::ErrorCode,
    id::marker::{self, Application},
    model::{ChannelKind, Command, CommandKind, Message, MessageKind},
};
use serde_json::{Map, Value, json};
use sqlx::PgConnection;

use super::{
    Context, Kind, Source, components,
    create::{CONTEXT_BOT_DM, Data},
    message::{self, Shown},
    options::{self, Resolved},
    submit,
};
use crate::{
    access::Place,
    auth::CurrentUser,
    error::Result,
    form::{Fault, FormErrors},
    routes::commands,
};

/// What is sent to the application besides what all interactions have.
pub(super) struct Action {
    pub(super) data: Value,
    pub(super) context: Context,
    /// Of a component or of a form that one opened.
    pub(super) message: Option<Message>,
}

/// What a user asks of an application, and where.
pub(super) struct Asked<'a> {
    pub(super) caller: &'a CurrentUser,
    pub(super) place: &'a Place,
    pub(super) application: Id<Application>,
    pub(super) data: &'a Data,
}

impl Asked<'_> {
    /// Errors: 10063, 50013, 50035.
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
        check_usable(db, place, &command).await?;
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
            .read(db, self.caller, self.application, place)
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
        })
    }

    /// Errors: 10008, 50035.
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
        let used = components::check_use(
            &message.components,
            custom_id,
            data.component_type.unwrap_or_default(),
            &data.values,
            &mut resolved,
        )?;
        let resolved = resolved
            .read(db, self.caller, self.application, place)
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
        let form = row.context.modal.ok_or(ErrorCode::UnknownInteraction)?;
        if Some(form["custom_id"].as_str().unwrap_or_default()) != data.custom_id.as_deref() {
            return Err(ErrorCode::UnknownInteraction.into());
        }
        let components = submit::check(&form["components"], &data.components, &mut resolved)?;
        let resolved = resolved
            .read(db, self.caller, self.application, place)
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
        })
    }

    /// A message of this place that the caller can see.
    async fn shown(&self, db: &mut PgConnection, id: Id<marker::Message>) -> Result<Option<Shown>> {
        let (user, bot) = (self.caller.id, self.application.cast());
        message::shown_to(db, user, bot, self.place.id(), id).await
    }
}

fn add_resolved(sent: &mut Value, resolved: Value) {
    let is_empty = resolved.as_object().is_none_or(Map::is_empty);
    if !is_empty {
        sent["resolved"] = resolved;
    }
}

/// Errors: 50013.
async fn check_usable(db: &mut PgConnection, place: &Place, command: &Command) -> Result<()> {
    let contexts = command.body.contexts.as_deref();
    let is_usable = match place.guild() {
        Some(guild) => {
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
            let set = commands::rules(&mut *db, guild.id, &applications).await?;
            let is_of_age = !command.body.nsfw || place.is_nsfw();
            is_of_age && commands::is_usable(asker, &set, command)
        }
        None => {
            let is_for_dms = contexts.is_none_or(|all| all.contains(&CONTEXT_BOT_DM));
            is_for_dms
                && command.body.dm_permission != Some(false)
                && place.kind() == ChannelKind::DM
        }
    };
    if is_usable {
        Ok(())
    } else {
        Err(ErrorCode::MissingPermissions.into())
    }
}
