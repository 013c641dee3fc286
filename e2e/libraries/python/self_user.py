"""A day of somebody who uses discord.py-self. Ends by itself."""

import io
import os

import discord
import story
import yarl

discord.http.Route.BASE = os.environ["API_ORIGIN"] + "/api/v9"
discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(os.environ["GATEWAY_URL"])
channel_id = int(os.environ["CHANNEL_ID"])
client = discord.Client()


# It would ask hosts of others what the newest browser is, and goes on without an answer.
async def nobody(*_, **__):
    raise ConnectionError


headers = discord.utils.Headers
headers.get_api_properties = headers._get_build_number = headers._get_browser_version = nobody


@client.event
async def on_ready():
    guild = client.guilds[0]
    story.note("guild", name=guild.name, me=str(guild.me.id))
    (request,) = client.relationships
    story.note("request", type=request.type.name, of=str(request.user.id))
    await request.accept()


@client.event
async def on_resumed():
    story.note("resumed")


@client.event
async def on_relationship_update(_, friend):
    story.note("relationship", type=friend.type.name)
    profile = await client.fetch_user_profile(friend.id)
    story.note("profile", mutual=[guild.guild.name for guild in profile.mutual_guilds])
    await friend.user.send("psst")


@client.event
async def on_message(message):
    if message.content == "psst":
        story.note("private", **{"with": str(message.channel.recipient.id)})
        file = discord.File(io.BytesIO(b"text"), "a.txt")
        await client.get_channel(channel_id).send("hello", file=file)
    if message.content == "hello":
        files = [file.filename for file in message.attachments]
        story.note("message", content=message.content, files=files)
        await message.add_reaction("👍")


@client.event
async def on_reaction_add(reaction, _):
    story.note("reaction", emoji=str(reaction.emoji))
    await reaction.message.edit(content="hello again")


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
    channel = client.get_channel(channel_id)
    async for message in channel.history(limit=5):
        if message.content == "hello again":
            break
    story.note("history", reactions=[f"{r.emoji} {r.count}" for r in message.reactions])
    members = await channel.guild.fetch_members(channels=[channel])
    story.note("members", ids=sorted(str(member.id) for member in members))
    await message.ack()
    await message.delete()


@client.event
async def on_raw_message_delete(_):
    story.note("delete")
    await client.close()


client.run(os.environ["TOKEN"])
