"""Chunks its guild at start-up, as every bot with the members intent does, then asks for members.

Prints a JSON object for each thing that happened, one a line.
"""

import asyncio
import json
import logging
import os

import discord
import yarl

discord.http.Route.BASE = os.environ["API_ORIGIN"] + "/api/v10"
discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(os.environ["GATEWAY_URL"])


def note(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


class Bot(discord.Client):
    async def on_ready(self):
        guild = self.guilds[0]
        note("ready", chunked=guild.chunked, members=len(guild.members), count=guild.member_count)
        wanted = os.environ["WANTED_USER"]
        found = await guild.query_members(user_ids=[int(wanted), 1])
        note("by id", ids=[str(member.id) for member in found])
        found = await guild.query_members("WALKER 12", limit=100)
        note("by name", names=sorted(member.name for member in found))
        await self.close()


# To the errors' stream, for whoever wonders why it did not get far.
Bot(intents=discord.Intents.all()).run(os.environ["BOT_TOKEN"], log_level=logging.DEBUG)
