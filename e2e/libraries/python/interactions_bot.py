"""The same day of an interactions.py bot. Ends by itself."""

import io
import os

import interactions
import story
from interactions.api.http.route import Route

Route.BASE = os.environ["API_ORIGIN"] + "/api/v10"
channel_id = int(os.environ["CHANNEL_ID"])

intents = interactions.Intents.DEFAULT | interactions.Intents.MESSAGE_CONTENT
bot = interactions.Client(intents=intents, send_command_tracebacks=False)


@interactions.slash_command("ping", description="Answers")
async def ping(context):
    await context.send("pong")


@interactions.listen()
async def on_startup(_: interactions.events.Startup):
    guild = bot.guilds[0]
    story.note("guild", name=guild.name, channels=len(guild.channels))
    commands = await bot.http.get_application_commands(bot.app.id, interactions.GLOBAL_SCOPE)
    story.note("command", name=commands[0]["name"])
    await bot.get_channel(channel_id).send(
        "hello",
        embeds=interactions.Embed(title="Hall"),
        files=interactions.File(io.BytesIO(b"text"), "a.txt"),
    )


@interactions.listen()
async def on_message(event: interactions.events.MessageCreate):
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


@interactions.listen()
async def on_reaction(event: interactions.events.MessageReactionAdd):
    story.note("reaction", emoji=event.emoji.name)
    await event.message.edit(content="hello again")


@interactions.listen()
async def on_edit(event: interactions.events.MessageUpdate):
    message = event.after
    if message.content != "hello again" or message.flags:
        return
    story.note("edit", content=message.content)
    thread = await message.create_thread("About it")
    await thread.send("in the thread")


@interactions.listen()
async def on_thread(event: interactions.events.NewThreadCreate):
    story.note("thread", name=event.thread.name)
    history = await bot.get_channel(channel_id).fetch_messages(limit=5)
    first = next(message for message in history if message.content == "hello again")
    story.note("history", reactions=[f"{r.emoji.name} {r.count}" for r in first.reactions])
    await first.delete()


@interactions.listen()
async def on_delete(_: interactions.events.MessageDelete):
    story.note("delete")
    # `bot.stop` goes round in circles until the next heartbeat.
    os._exit(0)


bot.start(os.environ["BOT_TOKEN"])
