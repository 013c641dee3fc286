'use strict';

// A discord.js bot as anybody would write it. It prints one JSON line per thing it sees, for the
// test that runs it; the end of its stdin stops it.
//
// Settings: API_ORIGIN (http://host:port), BOT_TOKEN.

const readline = require('node:readline');
const { Client, Events, GatewayIntentBits } = require('discord.js');

const say = (event, fields) => process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);

const client = new Client({
  intents: [
    GatewayIntentBits.Guilds,
    GatewayIntentBits.GuildMessages,
    GatewayIntentBits.MessageContent,
  ],
  rest: { api: `${process.env.API_ORIGIN}/api`, version: '10' },
});

const describe = (guild) => ({
  guild: guild.id,
  name: guild.name,
  channels: [...guild.channels.cache.keys()],
  me: guild.members.me?.id ?? null,
});

client.on(Events.ClientReady, () => {
  for (const guild of client.guilds.cache.values()) say('guild', describe(guild));
});
client.on(Events.ShardReady, () => say('ready', {}));
client.on(Events.ShardResume, () => say('resumed', {}));
client.on(Events.GuildCreate, (guild) => say('guild', describe(guild)));
client.on(Events.MessageCreate, async (message) => {
  const { id, content } = message;
  say('message', { id, content, channel: message.channelId, author: message.author.id });
  if (content === '!ping' && !message.author.bot) await message.reply('pong');
});
client.on(Events.MessageUpdate, (_, { id, content }) => say('edit', { id, content }));
client.on(Events.MessageDelete, ({ id }) => say('delete', { id }));
client.on(Events.Error, (error) => say('error', { message: String(error) }));
client.on(Events.ShardError, (error) => say('socket error', { message: String(error) }));

process.on('unhandledRejection', (error) => say('error', { message: String(error) }));

readline.createInterface({ input: process.stdin }).on('close', async () => {
  await client.destroy();
  process.exit(0);
});

client.login(process.env.BOT_TOKEN);
