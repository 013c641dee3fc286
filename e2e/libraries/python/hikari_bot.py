"""A hikari bot's day, told by `story.py`. Ends by itself."""

import os

import hikari
import story

bot = hikari.GatewayBot(
    os.environ["BOT_TOKEN"],
    rest_url=os.environ["API_ORIGIN"] + "/api/v10",
    intents=hikari.Intents.ALL_UNPRIVILEGED | hikari.Intents.MESSAGE_CONTENT,
    banner=None,
)
channel = int(os.environ["CHANNEL_ID"])


@bot.listen()
async def on_started(_: hikari.StartedEvent):
    me = bot.get_me()
    commands = await bot.rest.set_application_commands(
        application=me.id, commands=[bot.rest.slash_command_builder("ping", "Answers")]
    )
    story.note("command", name=commands[0].name)
    await bot.rest.create_message(
        channel,
        "hello",
        embed=hikari.Embed(title="Hall"),
        attachment=hikari.Bytes(b"text", "a.txt"),
    )


@bot.listen()
async def on_guild(event: hikari.GuildAvailableEvent):
    story.note("guild", name=event.guild.name, channels=len(event.channels))


@bot.listen()
async def on_message(event: hikari.GuildMessageCreateEvent):
    message = event.message
    if message.content != "hello":
        return
    story.note(
        "message",
        content=message.content,
        embeds=[embed.title for embed in message.embeds],
        files=[file.filename for file in message.attachments],
    )
    await message.add_reaction("👍")


@bot.listen()
async def on_reaction(event: hikari.GuildReactionAddEvent):
    story.note("reaction", emoji=str(event.emoji_name))
    await bot.rest.edit_message(event.channel_id, event.message_id, "hello again")


@bot.listen()
async def on_edit(event: hikari.GuildMessageUpdateEvent):
    if event.message.content != "hello again" or event.message.flags:
        return
    story.note("edit", content=event.message.content)
    thread = await bot.rest.create_message_thread(event.channel_id, event.message_id, "About it")
    await bot.rest.create_message(thread.id, "in the thread")


@bot.listen()
async def on_thread(event: hikari.GuildThreadCreateEvent):
    story.note("thread", name=event.thread.name)
    history = await bot.rest.fetch_messages(channel).limit(5)
    first = next(message for message in history if message.content == "hello again")
    story.note("history", reactions=[f"{r.emoji} {r.count}" for r in first.reactions])
    await first.delete()


@bot.listen()
async def on_delete(_: hikari.GuildMessageDeleteEvent):
    story.note("delete")
    await bot.close()


bot.run(check_for_updates=False)
