//! A serenity bot with a poise framework, as anybody would write it; only the API's address
//! differs from the libraries' own examples.

use std::{sync::Arc, time::Duration};

use poise::serenity_prelude as serenity;
use serde_json::json;
use tokio::task::JoinHandle;

use super::Diary;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Answers `pong`.
#[poise::command(prefix_command)]
async fn ping(ctx: poise::Context<'_, Diary, Error>) -> Result<(), Error> {
    ctx.reply("pong").await?;
    Ok(())
}

pub(super) struct Bot {
    shards: Arc<serenity::ShardManager>,
    task: JoinHandle<()>,
}

impl Bot {
    pub(super) async fn stop(self) {
        const GRACE: Duration = Duration::from_secs(10);
        self.shards.shutdown_all().await;
        let _ = tokio::time::timeout(GRACE, self.task).await;
    }
}

pub(super) async fn start(origin: &str, token: &str, diary: Diary) -> Bot {
    let intents = serenity::GatewayIntents::GUILDS
        | serenity::GatewayIntents::GUILD_MESSAGES
        | serenity::GatewayIntents::MESSAGE_CONTENT;
    let notes = diary.clone();
    let framework = poise::Framework::builder()
        .options(poise::FrameworkOptions {
            commands: vec![ping()],
            prefix_options: poise::PrefixFrameworkOptions {
                prefix: Some("!".into()),
                ..Default::default()
            },
            event_handler: |framework, event| {
                Box::pin(async move {
                    note(framework.serenity_context, event, framework.user_data);
                    Ok(())
                })
            },
            on_error: |error| {
                Box::pin(async move {
                    if let poise::FrameworkError::Command { error, ctx, .. } = &error {
                        ctx.data()
                            .note(json!({"event": "error", "message": error.to_string()}));
                    }
                })
            },
            ..Default::default()
        })
        .setup(|_, _, _| Box::pin(async move { Ok(diary) }))
        .build();
    launch(origin, token, intents, framework, notes).await
}

/// Logs a bot in at an API of ours; why it ended by itself is noted as an error.
pub(super) async fn launch(
    origin: &str,
    token: &str,
    intents: serenity::GatewayIntents,
    framework: poise::Framework<Diary, Error>,
    notes: Diary,
) -> Bot {
    let http = serenity::HttpBuilder::new(token)
        .proxy(origin)
        .ratelimiter_disabled(true)
        .build();
    let mut client = serenity::ClientBuilder::new_with_http(http, intents)
        .framework(framework)
        .await
        .unwrap();
    let shards = Arc::clone(&client.shard_manager);
    let task = tokio::spawn(async move {
        if let Err(error) = client.start().await {
            notes.note(json!({"event": "error", "message": error.to_string()}));
        }
    });
    Bot { shards, task }
}

fn note(ctx: &serenity::Context, event: &serenity::FullEvent, diary: &Diary) {
    use serenity::FullEvent;

    match event {
        FullEvent::Ready { .. } => diary.note(json!({"event": "ready"})),
        FullEvent::Resume { .. } => diary.note(json!({"event": "resumed"})),
        FullEvent::GuildCreate { guild, .. } => {
            let Some(cached) = ctx.cache.guild(guild.id) else {
                return diary.note(json!({"event": "error", "message": "guild not cached"}));
            };
            let me = ctx.cache.current_user().id;
            let channels: Vec<String> = cached.channels.keys().map(ToString::to_string).collect();
            diary.note(json!({
                "event": "guild",
                "guild": cached.id.to_string(),
                "name": cached.name,
                "channels": channels,
                "me": cached.members.get(&me).map(|member| member.user.id.to_string()),
            }));
        }
        FullEvent::Message { new_message } => diary.note(json!({
            "event": "message",
            "id": new_message.id.to_string(),
            "content": new_message.content,
            "channel": new_message.channel_id.to_string(),
            "author": new_message.author.id.to_string(),
        })),
        FullEvent::MessageUpdate { event, .. } => diary.note(json!({
            "event": "edit",
            "id": event.id.to_string(),
            "content": event.content,
        })),
        FullEvent::MessageDelete {
            deleted_message_id, ..
        } => diary.note(json!({"event": "delete", "id": deleted_message_id.to_string()})),
        _ => {}
    }
}
