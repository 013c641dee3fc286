//! A serenity bot with poise that works by application commands, as anybody would write it; what
//! it offers is told in [`super::commands`].

use futures_util::StreamExt;
use poise::{CreateReply, Modal, serenity_prelude as serenity};
use serde_json::json;
use serenity::{
    AutoArchiveDuration, AutocompleteChoice, ButtonStyle, ComponentInteraction,
    ComponentInteractionCollector, ComponentInteractionDataKind, CreateActionRow, CreateAttachment,
    CreateAutocompleteResponse, CreateButton, CreateInteractionResponse as Response,
    CreateInteractionResponseMessage as Answer, CreateMessage, CreateSelectMenu,
    CreateSelectMenuKind, CreateSelectMenuOption, CreateThread, CreateWebhook, EditMember,
    ExecuteWebhook, FullEvent, GatewayIntents, ModalInteractionCollector, Timestamp,
};

use super::{
    Diary,
    commands::{REASON, file},
    serenity_poise::{Bot, launch},
};

type Error = Box<dyn std::error::Error + Send + Sync>;
type Context<'a> = poise::Context<'a, Diary, Error>;
type Result<T = ()> = std::result::Result<T, Error>;

const HOUR_S: i64 = 3600;

pub(super) async fn start(origin: &str, token: &str, diary: Diary) -> Bot {
    let intents =
        GatewayIntents::GUILDS | GatewayIntents::GUILD_MESSAGES | GatewayIntents::GUILD_MODERATION;
    let notes = diary.clone();
    let framework = poise::Framework::builder()
        .options(poise::FrameworkOptions {
            commands: [global(), of_guild()].into_iter().flatten().collect(),
            event_handler: |framework, event| {
                Box::pin(async move {
                    note(event, framework.user_data);
                    Ok(())
                })
            },
            on_error: |error| {
                Box::pin(async move {
                    if let Some(ctx) = error.ctx() {
                        ctx.data()
                            .note(json!({"event": "error", "message": error.to_string()}));
                    }
                })
            },
            ..Default::default()
        })
        .setup(|ctx, ready, _| {
            Box::pin(async move {
                poise::builtins::register_globally(ctx, &global()).await?;
                for guild in &ready.guilds {
                    poise::builtins::register_in_guild(ctx, &of_guild(), guild.id).await?;
                }
                diary.note(json!({"event": "registered"}));
                Ok(diary)
            })
        })
        .build();
    launch(origin, token, intents, framework, notes).await
}

fn global() -> Vec<poise::Command<Diary, Error>> {
    vec![greet()]
}

fn of_guild() -> Vec<poise::Command<Diary, Error>> {
    vec![panel(), slow(), thread(), hook(), upload(), moderate()]
}

async fn tastes(_: Context<'_>, typed: &str) -> CreateAutocompleteResponse {
    let fitting = ["cherry", "chocolate", "vanilla"]
        .into_iter()
        .filter(|taste| taste.starts_with(typed));
    CreateAutocompleteResponse::new().set_choices(fitting.map(AutocompleteChoice::from).collect())
}

/// Says hello.
#[poise::command(slash_command)]
async fn greet(
    ctx: Context<'_>,
    #[description = "To whom"] who: serenity::User,
    #[description = "How often"]
    #[min = 1]
    #[max = 9]
    times: Option<u8>,
    #[description = "Of the ice cream"]
    #[autocomplete = "tastes"]
    taste: Option<String>,
) -> Result {
    let (times, taste) = (times.unwrap_or(1), taste.as_deref().unwrap_or("nothing"));
    let hello = format!("hello {}, {times} times, with {taste}", who.name);
    ctx.say(hello).await?;
    Ok(())
}

/// Buttons, a select and a form.
#[poise::command(slash_command)]
async fn panel(ctx: Context<'_>) -> Result {
    // Before anybody can use them.
    let mut uses = ComponentInteractionCollector::new(ctx)
        .channel_id(ctx.channel_id())
        .stream();
    let buttons = CreateActionRow::Buttons(vec![
        CreateButton::new("press").label("Press"),
        CreateButton::new("ask")
            .label("Ask")
            .style(ButtonStyle::Secondary),
    ]);
    let options = ["red", "green"].map(|colour| CreateSelectMenuOption::new(colour, colour));
    let options = options.to_vec();
    let select = CreateSelectMenu::new("colour", CreateSelectMenuKind::String { options });
    let components = vec![buttons, CreateActionRow::SelectMenu(select)];
    let reply = CreateReply::default();
    ctx.send(reply.content("pick one").components(components))
        .await?;
    while let Some(used) = uses.next().await {
        let content = match (used.data.custom_id.as_str(), &used.data.kind) {
            ("ask", _) => return ask(ctx, &used).await,
            ("colour", ComponentInteractionDataKind::StringSelect { values }) => {
                format!("it is {}", values[0])
            }
            _ => "pressed".to_owned(),
        };
        let update = Response::UpdateMessage(Answer::new().content(content));
        used.create_response(ctx, update).await?;
    }
    Ok(())
}

#[derive(Debug, Modal)]
#[name = "A question"]
struct Question {
    #[name = "A word"]
    word: String,
}

async fn ask(ctx: Context<'_>, used: &ComponentInteraction) -> Result {
    let mut forms = ModalInteractionCollector::new(ctx)
        .custom_ids(vec!["form".into()])
        .stream();
    let form = Question::create(None, "form".to_owned());
    used.create_response(ctx, form).await?;
    let sent = forms.next().await.ok_or("no form came")?;
    let Question { word } = Question::parse(sent.data.clone())?;
    let answer = Answer::new().content(format!("you wrote {word}"));
    sent.create_response(ctx, Response::Message(answer)).await?;
    Ok(())
}

/// Answers later.
#[poise::command(slash_command)]
async fn slow(ctx: Context<'_>) -> Result {
    ctx.defer().await?;
    ctx.say("done").await?;
    let secret = CreateReply::default().content("only for you");
    ctx.send(secret.ephemeral(true)).await?;
    Ok(())
}

/// A thread from a message.
#[poise::command(slash_command)]
async fn thread(ctx: Context<'_>) -> Result {
    ctx.defer().await?;
    let topic = ctx.channel_id().say(ctx, "a topic").await?;
    let form = CreateThread::new("aside").auto_archive_duration(AutoArchiveDuration::OneHour);
    let thread = ctx.channel_id();
    let thread = thread
        .create_thread_from_message(ctx, topic.id, form)
        .await?;
    let message = CreateMessage::new().content("in here");
    thread.send_message(ctx, message).await?;
    ctx.say("done").await?;
    Ok(())
}

/// A letter through a webhook.
#[poise::command(slash_command)]
async fn hook(ctx: Context<'_>) -> Result {
    ctx.defer().await?;
    let webhook = ctx
        .channel_id()
        .create_webhook(ctx, CreateWebhook::new("Courier"))
        .await?;
    let letter = ExecuteWebhook::new()
        .content("a letter")
        .username("Postman");
    let letter = webhook.execute(ctx, true, letter).await?;
    let letter = letter.ok_or("nothing came back")?;
    ctx.data().note(json!({
        "event": "letter",
        "id": letter.id.to_string(),
        "webhook": letter.webhook_id.map(|id| id.to_string()),
    }));
    ctx.say("done").await?;
    Ok(())
}

/// A file, there and back.
#[poise::command(slash_command)]
async fn upload(ctx: Context<'_>) -> Result {
    let bytes = CreateAttachment::bytes(file(), "bytes.bin").description("every byte");
    let reply = CreateReply::default().content("a file").attachment(bytes);
    let message = ctx.send(reply).await?.into_message().await?;
    let attachment = message.attachments.first().ok_or("no attachment")?;
    ctx.data().note(json!({
        "event": "file",
        "same": attachment.download().await? == file(),
        "name": attachment.filename,
    }));
    Ok(())
}

/// Keeps the peace.
#[poise::command(
    slash_command,
    subcommand_required,
    default_member_permissions = "MODERATE_MEMBERS",
    subcommands("timeout", "ban", "unban", "log")
)]
async fn moderate(_: Context<'_>) -> Result {
    Ok(())
}

fn guild(ctx: Context<'_>) -> Result<serenity::GuildId> {
    Ok(ctx.guild_id().ok_or("not in a guild")?)
}

/// Silences somebody.
#[poise::command(slash_command)]
async fn timeout(ctx: Context<'_>, #[description = "Whom"] who: serenity::Member) -> Result {
    ctx.defer().await?;
    let end = Timestamp::from_unix_timestamp(Timestamp::now().unix_timestamp() + HOUR_S)?;
    let change = EditMember::new()
        .disable_communication_until_datetime(end)
        .audit_log_reason(REASON);
    guild(ctx)?.edit_member(ctx, who.user.id, change).await?;
    ctx.say("done").await?;
    Ok(())
}

/// Bans somebody.
#[poise::command(slash_command)]
async fn ban(ctx: Context<'_>, #[description = "Whom"] who: serenity::User) -> Result {
    ctx.defer().await?;
    let days_of_messages = 1;
    let guild = guild(ctx)?;
    guild
        .ban_with_reason(ctx, who.id, days_of_messages, REASON)
        .await?;
    ctx.say("done").await?;
    Ok(())
}

/// Forgives somebody.
#[poise::command(slash_command)]
async fn unban(ctx: Context<'_>, #[description = "Whom"] who: serenity::User) -> Result {
    ctx.defer().await?;
    let guild = guild(ctx)?;
    ctx.http()
        .remove_ban(guild, who.id, Some("forgiven"))
        .await?;
    ctx.say("done").await?;
    Ok(())
}

/// Reads the audit log.
#[poise::command(slash_command)]
async fn log(ctx: Context<'_>) -> Result {
    ctx.defer().await?;
    let log = guild(ctx)?
        .audit_logs(ctx, None, None, None, Some(50))
        .await?;
    for entry in log.entries {
        let changes = entry.changes.unwrap_or_default();
        let changes: Vec<&str> = changes.iter().map(|change| change.key()).collect();
        ctx.data().note(json!({
            "event": "log",
            "action": entry.action.num(),
            "target": entry.target_id.map(|id| id.to_string()),
            "by": entry.user_id.to_string(),
            "reason": entry.reason,
            "changes": changes,
        }));
    }
    ctx.say("done").await?;
    Ok(())
}

fn note(event: &FullEvent, diary: &Diary) {
    match event {
        FullEvent::GuildBanAddition { banned_user, .. } => {
            diary.note(json!({"event": "banned", "user": banned_user.id.to_string()}));
        }
        FullEvent::GuildBanRemoval { unbanned_user, .. } => {
            diary.note(json!({"event": "unbanned", "user": unbanned_user.id.to_string()}));
        }
        _ => {}
    }
}
