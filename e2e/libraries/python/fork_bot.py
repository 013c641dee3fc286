"""The same day of a bot of the libraries that came from discord.py. Ends by itself.

LIBRARY names the module: `disnake`, `nextcord` or `discord` (py-cord).
"""

import importlib
import io
import os

import story

library = importlib.import_module(os.environ["LIBRARY"])
base = os.environ["API_ORIGIN"] + "/api/v10"
http = importlib.import_module(library.__name__ + ".http")
setattr(http.Route, "API_BASE_URL" if hasattr(http.Route, "API_BASE_URL") else "BASE", base)
channel_id = int(os.environ["CHANNEL_ID"])

intents = library.Intents.default()
intents.message_content = True
client = library.Client(intents=intents)


@client.event
async def on_ready():
    guild = client.guilds[0]
    story.note("guild", name=guild.name, channels=len(guild.channels))
    commands = await client.http.bulk_upsert_global_commands(
        client.user.id, [{"name": "ping", "description": "Answers", "type": 1}]
    )
    story.note("command", name=commands[0]["name"])
    await client.get_channel(channel_id).send(
        "hello",
        embed=library.Embed(title="Hall"),
        file=library.File(io.BytesIO(b"text"), "a.txt"),
    )


@client.event
async def on_message(message):
    if message.content != "hello":
        return
    story.note(
        "message",
        content=message.content,
        embeds=[embed.title for embed in message.embeds],
        files=[file.filename for file in message.attachments],
    )
    await message.add_reaction("👍")


@client.event
async def on_raw_reaction_add(payload):
    story.note("reaction", emoji=str(payload.emoji))
    message = await client.get_channel(payload.channel_id).fetch_message(payload.message_id)
    await message.edit(content="hello again")


@client.event
async def on_message_edit(_, message):
    if message.content != "hello again" or message.flags.has_thread:
        return
    story.note("edit", content=message.content)
    thread = await message.create_thread(name="About it", auto_archive_duration=60)
    await thread.send("in the thread")


@client.event
async def on_thread_create(thread):
    story.note("thread", name=thread.name)
    async for message in client.get_channel(channel_id).history(limit=5):
        if message.content == "hello again":
            break
    story.note("history", reactions=[f"{r.emoji} {r.count}" for r in message.reactions])
    await message.delete()


@client.event
async def on_raw_message_delete(_):
    story.note("delete")
    await client.close()


client.run(os.environ["BOT_TOKEN"])
