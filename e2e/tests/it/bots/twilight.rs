//! A twilight bot that works by application commands, as anybody would write it; what it offers
//! is told in [`super::commands`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio::task::JoinHandle;
use twilight_gateway::{
    CloseFrame, ConfigBuilder, Event, EventTypeFlags, Intents, MessageSender, Shard, ShardId,
    StreamExt,
};
use twilight_http::{Client, client::InteractionClient, request::AuditLogReason};
use twilight_model::{
    application::{
        command::{Command, CommandOptionChoice, CommandType},
        interaction::{
            Interaction, InteractionData, InteractionType,
            application_command::{CommandData, CommandDataOption, CommandOptionValue},
            message_component::MessageComponentInteractionData,
            modal::{ModalInteractionComponent, ModalInteractionData},
        },
    },
    channel::{
        message::{
            Component, MessageFlags,
            component::{ButtonStyle, SelectMenuType, TextInput, TextInputStyle},
        },
        thread::AutoArchiveDuration,
    },
    gateway::payload::incoming::Ready,
    guild::Permissions,
    http::{
        attachment::Attachment,
        interaction::{InteractionResponse, InteractionResponseData, InteractionResponseType},
    },
    id::{
        Id,
        marker::{ApplicationMarker, ChannelMarker, GuildMarker, UserMarker},
    },
    util::Timestamp,
};
use twilight_util::builder::{
    command::{CommandBuilder, IntegerBuilder, StringBuilder, SubCommandBuilder, UserBuilder},
    message::{
        ActionRowBuilder, ButtonBuilder, LabelBuilder, SelectMenuBuilder, SelectMenuOptionBuilder,
    },
};

use super::{
    Diary,
    commands::{REASON, file},
};

const HOUR_S: u32 = 3600;

pub(super) struct Bot {
    sender: MessageSender,
    stops: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Bot {
    pub(super) async fn stop(self) {
        const GRACE: Duration = Duration::from_secs(10);
        self.stops.store(true, Ordering::Relaxed);
        let _ = self.sender.close(CloseFrame::NORMAL); // its socket may be gone
        let _ = tokio::time::timeout(GRACE, self.task).await;
    }
}

/// `gateway`: `ws://host:port`; the library has no other way to leave its own host.
pub(super) async fn start(origin: &str, gateway: &str, token: &str, diary: Diary) -> Bot {
    let host = origin.strip_prefix("http://").expect("a plain server");
    let http = Client::builder()
        .token(token.to_owned())
        .proxy(host.to_owned(), true)
        .build();
    let intents = Intents::GUILDS | Intents::GUILD_MESSAGES | Intents::GUILD_MODERATION;
    let config = ConfigBuilder::new(token.to_owned(), intents)
        .proxy_url(gateway.to_owned())
        .build();
    let shard = Shard::with_config(ShardId::ONE, config);
    let sender = shard.sender();
    let stops = Arc::new(AtomicBool::new(false));
    let application = http.current_user_application().await.unwrap();
    let desk = Arc::new(Desk {
        http,
        application: application.model().await.unwrap().id,
        diary,
    });
    let task = tokio::spawn(run(shard, desk, Arc::clone(&stops)));
    Bot {
        sender,
        stops,
        task,
    }
}

async fn run(mut shard: Shard, desk: Arc<Desk>, stops: Arc<AtomicBool>) {
    while let Some(event) = shard.next_event(EventTypeFlags::all()).await {
        match event {
            Ok(Event::GatewayClose(_)) if stops.load(Ordering::Relaxed) => return,
            Ok(event) => {
                let desk = Arc::clone(&desk);
                tokio::spawn(async move {
                    if let Err(error) = desk.handle(event).await {
                        desk.error(format!("{error:?}"));
                    }
                });
            }
            Err(error) => desk.error(format!("{error:?}")),
        }
    }
}

/// What one command or component gets to work with.
struct Call<'a> {
    interaction: &'a Interaction,
    api: InteractionClient<'a>,
    guild: Id<GuildMarker>,
    channel: Id<ChannelMarker>,
}

impl Call<'_> {
    async fn respond(
        &self,
        kind: InteractionResponseType,
        data: InteractionResponseData,
    ) -> Result<()> {
        let data = Some(data);
        self.send(InteractionResponse { kind, data }).await
    }

    async fn reply(&self, data: InteractionResponseData) -> Result<()> {
        let kind = InteractionResponseType::ChannelMessageWithSource;
        self.respond(kind, data).await
    }

    async fn defer(&self) -> Result<()> {
        let kind = InteractionResponseType::DeferredChannelMessageWithSource;
        self.send(InteractionResponse { kind, data: None }).await
    }

    async fn send(&self, response: InteractionResponse) -> Result<()> {
        let Interaction { id, token, .. } = self.interaction;
        self.api.create_response(*id, token, &response).await?;
        Ok(())
    }

    async fn done(&self) -> Result<()> {
        let token = &self.interaction.token;
        let edit = self.api.update_response(token).content(Some("done"));
        edit.await?.model().await?;
        Ok(())
    }
}

fn saying(content: impl Into<String>) -> InteractionResponseData {
    InteractionResponseData {
        content: Some(content.into()),
        ..Default::default()
    }
}

struct Desk {
    http: Client,
    application: Id<ApplicationMarker>,
    diary: Diary,
}

impl Desk {
    fn error(&self, message: String) {
        self.diary
            .note(json!({"event": "error", "message": message}));
    }

    async fn handle(&self, event: Event) -> Result<()> {
        match event {
            Event::Ready(ready) => self.register(&ready).await?,
            Event::InteractionCreate(interaction) => self.answer(&interaction).await?,
            Event::BanAdd(ban) => self
                .diary
                .note(json!({"event": "banned", "user": ban.user.id})),
            Event::BanRemove(ban) => self
                .diary
                .note(json!({"event": "unbanned", "user": ban.user.id})),
            _ => {}
        }
        Ok(())
    }

    async fn register(&self, ready: &Ready) -> Result<()> {
        let api = self.http.interaction(self.application);
        let greet = api.set_global_commands(&[greet()]).await?;
        let greet = greet.models().await?;
        assert!(greet.iter().all(|command| command.id.is_some()));
        for guild in &ready.guilds {
            let commands = of_guild();
            let stored = api.set_guild_commands(guild.id, &commands).await?;
            assert_eq!(stored.models().await?.len(), commands.len());
        }
        self.diary.note(json!({"event": "registered"}));
        Ok(())
    }

    async fn answer(&self, interaction: &Interaction) -> Result<()> {
        let call = Call {
            interaction,
            api: self.http.interaction(self.application),
            guild: interaction.guild_id.context("no guild")?,
            channel: interaction.channel.as_ref().context("no channel")?.id,
        };
        match interaction.data.as_ref().context("no data")? {
            InteractionData::ApplicationCommand(data)
                if interaction.kind == InteractionType::ApplicationCommandAutocomplete =>
            {
                complete(&call, data).await
            }
            InteractionData::ApplicationCommand(data) => self.command(&call, data).await,
            InteractionData::MessageComponent(data) => component(&call, data).await,
            InteractionData::ModalSubmit(data) => form(&call, data).await,
            other => bail!("unknown data {other:?}"),
        }
    }

    async fn command(&self, call: &Call<'_>, data: &CommandData) -> Result<()> {
        match data.name.as_str() {
            "greet" => greeting(call, data).await,
            "panel" => panel(call).await,
            "slow" => slow(call).await,
            "thread" => self.thread(call).await,
            "hook" => self.hook(call).await,
            "upload" => self.upload(call).await,
            "moderate" => self.moderate(call, &data.options[0]).await,
            other => bail!("unknown command {other}"),
        }
    }

    async fn thread(&self, call: &Call<'_>) -> Result<()> {
        call.defer().await?;
        let topic = self.http.create_message(call.channel).content("a topic");
        let topic = topic.await?.model().await?;
        let thread = self
            .http
            .create_thread_from_message(call.channel, topic.id, "aside")
            .auto_archive_duration(AutoArchiveDuration::Hour);
        let thread = thread.await?.model().await?;
        let message = self.http.create_message(thread.id).content("in here");
        message.await?.model().await?;
        call.done().await
    }

    async fn hook(&self, call: &Call<'_>) -> Result<()> {
        call.defer().await?;
        let webhook = self.http.create_webhook(call.channel, "Courier");
        let webhook = webhook.await?.model().await?;
        let token = webhook.token.as_deref().context("no token")?;
        let letter = self
            .http
            .execute_webhook(webhook.id, token)
            .content("a letter")
            .username("Postman")
            .wait();
        let letter = letter.await?.model().await?;
        self.diary.note(json!({
            "event": "letter",
            "id": letter.id,
            "webhook": letter.webhook_id,
        }));
        call.done().await
    }

    async fn upload(&self, call: &Call<'_>) -> Result<()> {
        let mut bytes = Attachment::from_bytes("bytes.bin".into(), file(), 7);
        bytes.description("every byte".into());
        call.reply(InteractionResponseData {
            attachments: Some(vec![bytes]),
            ..saying("a file")
        })
        .await?;
        let message = call.api.response(&call.interaction.token).await?;
        let message = message.model().await?;
        let attachment = message.attachments.first().context("no attachment")?;
        let got = reqwest::get(&attachment.url).await?.bytes().await?;
        self.diary.note(json!({
            "event": "file",
            "same": got == file(),
            "name": attachment.filename,
        }));
        Ok(())
    }

    async fn moderate(&self, call: &Call<'_>, subcommand: &CommandDataOption) -> Result<()> {
        call.defer().await?;
        let CommandOptionValue::SubCommand(options) = &subcommand.value else {
            bail!("no subcommand: {subcommand:?}");
        };
        let guild = call.guild;
        match (subcommand.name.as_str(), user(options)) {
            ("timeout", Some(who)) => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
                let end = Timestamp::from_secs((now.as_secs() + u64::from(HOUR_S)).try_into()?)?;
                let change = self.http.update_guild_member(guild, who);
                change
                    .communication_disabled_until(Some(end))
                    .reason(REASON)
                    .await?
                    .model()
                    .await?;
            }
            ("ban", Some(who)) => {
                let ban = self.http.create_ban(guild, who);
                ban.delete_message_seconds(HOUR_S).reason(REASON).await?;
            }
            ("unban", Some(who)) => {
                let unban = self.http.delete_ban(guild, who);
                unban.reason("forgiven").await?;
            }
            ("log", None) => self.log(guild).await?,
            other => bail!("unknown subcommand {other:?}"),
        }
        call.done().await
    }

    async fn log(&self, guild: Id<GuildMarker>) -> Result<()> {
        let log = self.http.audit_log(guild).limit(50).await?.model().await?;
        for entry in log.entries {
            let changes = entry.changes.iter();
            let changes: Vec<&str> = changes
                .filter_map(|change| change.key().map(|key| key.name()))
                .collect();
            self.diary.note(json!({
                "event": "log",
                "action": u16::from(entry.action_type),
                "target": entry.target_id,
                "by": entry.user_id,
                "reason": entry.reason,
                "changes": changes,
            }));
        }
        Ok(())
    }
}

fn greet() -> Command {
    let times = IntegerBuilder::new("times", "How often");
    let taste = StringBuilder::new("taste", "Of the ice cream");
    CommandBuilder::new("greet", "Says hello", CommandType::ChatInput)
        .option(UserBuilder::new("who", "To whom").required(true))
        .option(times.min_value(1).max_value(9))
        .option(taste.autocomplete(true))
        .build()
}

fn of_guild() -> Vec<Command> {
    let on_somebody = |name: &str| {
        let who = UserBuilder::new("who", "Whom").required(true);
        SubCommandBuilder::new(name, "To somebody").option(who)
    };
    let moderate = CommandBuilder::new("moderate", "Keeps the peace", CommandType::ChatInput)
        .default_member_permissions(Permissions::MODERATE_MEMBERS)
        .option(on_somebody("timeout"))
        .option(on_somebody("ban"))
        .option(on_somebody("unban"))
        .option(SubCommandBuilder::new("log", "Reads the audit log"))
        .build();
    let simple = ["panel", "slow", "thread", "hook", "upload"];
    let simple = simple
        .map(|name| CommandBuilder::new(name, "What it says", CommandType::ChatInput).build());
    simple.into_iter().chain([moderate]).collect()
}

fn user(options: &[CommandDataOption]) -> Option<Id<UserMarker>> {
    options.iter().find_map(|option| match option.value {
        CommandOptionValue::User(who) => Some(who),
        _ => None,
    })
}

async fn complete(call: &Call<'_>, data: &CommandData) -> Result<()> {
    let typed = data.options.iter().find_map(|option| match &option.value {
        CommandOptionValue::Focused(typed, _) => Some(typed),
        _ => None,
    });
    let typed = typed.context("nothing typed")?;
    let fitting = ["cherry", "chocolate", "vanilla"]
        .into_iter()
        .filter(|taste| taste.starts_with(typed.as_str()))
        .map(|taste| CommandOptionChoice {
            name: taste.to_owned(),
            name_localizations: None,
            value: taste.to_owned().into(),
        });
    let kind = InteractionResponseType::ApplicationCommandAutocompleteResult;
    let data = InteractionResponseData {
        choices: Some(fitting.collect()),
        ..Default::default()
    };
    call.respond(kind, data).await
}

async fn greeting(call: &Call<'_>, data: &CommandData) -> Result<()> {
    let who = user(&data.options).context("nobody to greet")?;
    let users = &data.resolved.as_ref().context("nothing resolved")?.users;
    let (mut times, mut taste) = (1, "nothing");
    for option in &data.options {
        match &option.value {
            CommandOptionValue::Integer(given) => times = *given,
            CommandOptionValue::String(given) => taste = given,
            _ => {}
        }
    }
    let hello = format!("hello {}, {times} times, with {taste}", users[&who].name);
    call.reply(saying(hello)).await
}

async fn panel(call: &Call<'_>) -> Result<()> {
    let button = |style, label: &str| ButtonBuilder::new(style).label(label);
    let buttons = ActionRowBuilder::new()
        .component(
            button(ButtonStyle::Primary, "Press")
                .custom_id("press")
                .build(),
        )
        .component(
            button(ButtonStyle::Secondary, "Ask")
                .custom_id("ask")
                .build(),
        );
    let colours = SelectMenuBuilder::new("colour", SelectMenuType::Text)
        .option(SelectMenuOptionBuilder::new("red", "red"))
        .option(SelectMenuOptionBuilder::new("green", "green"));
    let selects = ActionRowBuilder::new().component(colours.build());
    let rows = [buttons, selects].map(|row| Component::ActionRow(row.build()));
    call.reply(InteractionResponseData {
        components: Some(rows.into()),
        ..saying("pick one")
    })
    .await
}

async fn component(call: &Call<'_>, data: &MessageComponentInteractionData) -> Result<()> {
    let content = match data.custom_id.as_str() {
        "press" => "pressed".to_owned(),
        "colour" => format!("it is {}", data.values[0]),
        "ask" => return ask(call).await,
        other => bail!("unknown component {other}"),
    };
    let kind = InteractionResponseType::UpdateMessage;
    call.respond(kind, saying(content)).await
}

async fn ask(call: &Call<'_>) -> Result<()> {
    #[expect(
        deprecated,
        reason = "the field has to be given; labels carry the text now"
    )]
    let word = TextInput {
        custom_id: "word".to_owned(),
        id: None,
        label: None,
        max_length: None,
        min_length: None,
        placeholder: None,
        required: Some(true),
        style: TextInputStyle::Short,
        value: None,
    };
    let word = LabelBuilder::new("A word", Component::TextInput(word));
    let form = InteractionResponseData {
        custom_id: Some("form".to_owned()),
        title: Some("A question".to_owned()),
        components: Some(vec![Component::Label(word.build())]),
        ..Default::default()
    };
    call.respond(InteractionResponseType::Modal, form).await
}

async fn form(call: &Call<'_>, data: &ModalInteractionData) -> Result<()> {
    let word = data
        .components
        .iter()
        .find_map(|component| match component {
            ModalInteractionComponent::Label(label) => match &*label.component {
                ModalInteractionComponent::TextInput(input) => Some(&input.value),
                _ => None,
            },
            _ => None,
        });
    let answer = format!("you wrote {}", word.context("no word")?);
    call.reply(saying(answer)).await
}

async fn slow(call: &Call<'_>) -> Result<()> {
    call.defer().await?;
    call.done().await?;
    let secret = call.api.create_followup(&call.interaction.token);
    let secret = secret
        .content("only for you")
        .flags(MessageFlags::EPHEMERAL);
    secret.await?.model().await?;
    Ok(())
}
