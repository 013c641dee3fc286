//! What automod does about what its rules found.

use bytes::Bytes;
use guildhall_shared::{
    Id, Timestamp,
    envelope::{Alt, Envelope},
    error_code::ErrorCode,
    gateway::{EventKind, Intents},
    id::marker::{AutomodRule as RuleId, Channel, Guild, Message, User},
    model::{self, AuditAction, MessageKind},
};
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;
use time::Duration;

use crate::{
    access::{self, Place},
    app::App,
    audit::{self, Entry, Reason},
    auth::CurrentUser,
    automod::{
        Found, NameVerdict, Named, Rule, Verdict,
        rule::{Action, BLOCK_INTERACTION, BLOCK_MESSAGE, SEND_ALERT, TIMEOUT, visibility},
    },
    error::Result,
    events,
    routes::{members, messages},
};

/// Body of AUTO_MODERATION_ACTION_EXECUTION.
#[derive(Serialize)]
struct Execution<'a> {
    guild_id: Id<Guild>,
    action: &'a Action,
    rule_id: Id<RuleId>,
    rule_trigger_type: u8,
    user_id: Id<User>,
    /// Absent for a member's name, which is in no channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    channel_id: Option<Id<Channel>>,
    /// Absent for what was blocked, and for the name of a thread: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<Id<Message>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert_system_message_id: Option<Id<Message>>,
    content: &'a str,
    matched_keyword: Option<&'a str>,
    matched_content: Option<&'a str>,
}

/// Does what the rules say, in a transaction of its own that locks the guild's head: alerts,
/// timeouts, their events and entries of the audit log. `message` is the one they say it of, if
/// there is or will be one unless it is blocked.
///
/// Errors: 200000 if it is blocked.
pub(crate) async fn act(
    app: &App,
    author: &CurrentUser,
    place: &Place,
    verdict: &Verdict,
    message: Option<Id<Message>>,
) -> Result<()> {
    let Some(guild) = place.guild_id().filter(|_| !verdict.is_clean()) else {
        return Ok(());
    };
    let blocks = verdict.blocks();
    let mut tx = app.db.begin().await?;
    access::lock_realms(&mut tx, [guild.cast()]).await?;
    let mut deed = Deed {
        app,
        user: author.user(),
        guild,
        channel: Some(place.id()),
        text: &verdict.text,
        message: message.filter(|_| !blocks),
        events: Vec::new(),
    };
    for (rule, found, action) in verdict.actions() {
        deed.act(&mut tx, rule, found, action).await?;
    }
    let events = deed.events;
    tx.commit().await?;
    app.publisher.publish(events);
    if blocks {
        return Err(ErrorCode::BlockedByAutomod.into());
    }
    Ok(())
}

/// [`act`] on what is stored and stays, whatever becomes of this: an error would have it sent
/// again.
pub(crate) async fn act_after(
    app: &App,
    author: &CurrentUser,
    place: &Place,
    verdict: &Verdict,
    message: Option<Id<Message>>,
) {
    if verdict.is_clean() {
        return;
    }
    if let Err(error) = act(app, author, place, verdict, message).await {
        tracing::error!(
            ?error,
            "what automod does about something stored was not done"
        );
    }
}

/// Does what the rules say about a name, flags apart: alerts, events, entries of the audit log.
/// The guild's head is locked; publish what it returns after the commit.
pub(crate) async fn act_on_name(
    app: &App,
    db: &mut PgConnection,
    guild: Id<Guild>,
    named: Named<'_>,
    verdict: &NameVerdict,
) -> Result<Vec<Envelope>> {
    let mut deed = Deed {
        app,
        user: named.user,
        guild,
        channel: None,
        text: named.shown(),
        message: None,
        events: Vec::new(),
    };
    for (rule, found, action) in verdict.actions() {
        deed.act(db, rule, found, action).await?;
    }
    Ok(deed.events)
}

/// Consequences of one message or name, as they come about.
struct Deed<'a> {
    app: &'a App,
    /// Who wrote the message, or bears the name.
    user: &'a model::User,
    guild: Id<Guild>,
    channel: Option<Id<Channel>>,
    text: &'a str,
    message: Option<Id<Message>>,
    events: Vec<Envelope>,
}

impl Deed<'_> {
    async fn act(
        &mut self,
        db: &mut PgConnection,
        rule: &Rule,
        found: &Found,
        action: &Action,
    ) -> Result<()> {
        let (logged, alert) = match action.kind {
            BLOCK_MESSAGE => (AuditAction::AUTO_MODERATION_BLOCK_MESSAGE, None),
            SEND_ALERT => {
                let alert = self.alert(db, rule, found, action).await?;
                (AuditAction::AUTO_MODERATION_FLAG_TO_CHANNEL, alert)
            }
            TIMEOUT => {
                self.time_out(db, action).await?;
                (AuditAction::AUTO_MODERATION_USER_COMM_DISABLED, None)
            }
            // The caller stores the flag with the rest of the member.
            BLOCK_INTERACTION => (AuditAction::AUTO_MODERATION_QUARANTINE_USER, None),
            _ => return Ok(()),
        };
        let mut entry = Entry::new(self.guild, self.user.id, logged, &Reason::default())
            .target(self.user.id)
            .option("auto_moderation_rule_name", &rule.name)
            .option("auto_moderation_rule_trigger_type", rule.trigger_type);
        if let Some(channel) = self.channel {
            entry = entry.option("channel_id", channel);
        }
        self.events
            .extend(audit::append(self.app, db, entry).await?);
        self.tell(db, rule, found, action, alert).await
    }

    /// For who manages the guild; without the intent for it, without the words.
    async fn tell(
        &mut self,
        db: &mut PgConnection,
        rule: &Rule,
        found: &Found,
        action: &Action,
        alert: Option<Id<Message>>,
    ) -> Result<()> {
        let full = Execution {
            guild_id: self.guild,
            action,
            rule_id: rule.id,
            rule_trigger_type: rule.trigger_type,
            user_id: self.user.id,
            channel_id: self.channel,
            message_id: self.message,
            alert_system_message_id: alert,
            content: self.text,
            matched_keyword: found.keyword.as_deref(),
            matched_content: Some(&found.content),
        };
        let bare = Execution {
            content: "",
            matched_content: Some(""),
            ..full
        };
        let alt = Alt {
            full_for: Vec::new(),
            body: Bytes::from(serde_json::to_vec(&bare)?),
            parts: Vec::new(),
        };
        let vis = visibility(Intents::AUTO_MODERATION_EXECUTION);
        let kind = EventKind::AutoModerationActionExecution;
        let event = events::append(db, self.guild, kind, vis, &full, Some(alt)).await?;
        self.events.push(event);
        Ok(())
    }

    /// A message of the server in the channel for alerts; none if it is gone.
    async fn alert(
        &mut self,
        db: &mut PgConnection,
        rule: &Rule,
        found: &Found,
        action: &Action,
    ) -> Result<Option<Id<Message>>> {
        let Some(channel) = action.metadata.channel_id else {
            return Ok(None);
        };
        let exists = sqlx::query_scalar!(
            r#"select exists (select from channel where channel_id = $1 and guild_id = $2) as "there!""#,
            channel.to_db(),
            self.guild.to_db(),
        )
        .fetch_one(&mut *db)
        .await?;
        if !exists {
            return Ok(None);
        }
        let kind = MessageKind::AUTO_MODERATION_ACTION;
        let mut message = messages::draft(self.app, channel, self.user.clone(), kind)?;
        let field =
            |name: &str, value: String| json!({ "name": name, "value": value, "inline": false });
        let mut fields = vec![
            field("rule_name", rule.name.clone()),
            field("decision_id", message.id.to_string()),
            field("keyword", found.keyword.clone().unwrap_or_default()),
            field("keyword_matched_content", found.content.clone()),
        ];
        if let Some(channel) = self.channel {
            fields.push(field("channel_id", channel.to_string()));
        }
        if let Some(flagged) = self.message {
            fields.push(field("flagged_message_id", flagged.to_string()));
        }
        let embed = json!({
            "type": "auto_moderation_message",
            "description": self.text,
            "fields": fields,
        });
        message.embeds = vec![serde_json::from_value(embed)?];
        let member = guildhall_store::guild::member(&mut *db, self.guild, self.user.id).await?;
        let event = messages::post(db, self.guild, member.as_ref(), &message).await?;
        self.events.push(event);
        Ok(Some(message.id))
    }

    /// Never shortens a timeout.
    async fn time_out(&mut self, db: &mut PgConnection, action: &Action) -> Result<()> {
        let seconds = action.metadata.duration_seconds.unwrap_or_default();
        let until = Timestamp(Timestamp::now().0 + Duration::seconds(seconds));
        let user = self.user.id;
        let found = guildhall_store::guild::member(&mut *db, self.guild, user).await?;
        let Some(mut member) = found else {
            return Ok(());
        };
        if member.communication_disabled_until < Some(until) {
            member.communication_disabled_until = Some(until);
            let event = members::store(db, self.guild, user, &member).await?;
            self.events.push(event);
        }
        Ok(())
    }
}
