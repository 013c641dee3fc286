'use strict';

// A day of an Oceanic bot. Ends by itself.

const { Client } = require('oceanic.js');

// What it saw, one JSON object a line.
const note = (event, fields = {}) => console.log(JSON.stringify({ event, ...fields }));

const channel = process.env.CHANNEL_ID;
const client = new Client({
  auth: `Bot ${process.env.BOT_TOKEN}`,
  gateway: { intents: ['GUILDS', 'GUILD_MESSAGES', 'GUILD_MESSAGE_REACTIONS', 'MESSAGE_CONTENT'] },
  rest: { baseURL: `${process.env.API_ORIGIN}/api/v10` },
});

const stop = (error) => {
  note('error', { message: String(error?.stack ?? error) });
  process.exitCode = 1;
  client.disconnect(false);
};
process.on('unhandledRejection', stop);
client.on('error', stop);

client.once('ready', async () => {
  const guild = client.guilds.find(() => true);
  note('guild', { name: guild.name, channels: guild.channels.size });
  const commands = await client.application.bulkEditGlobalCommands([
    { name: 'ping', description: 'Answers', type: 1 },
  ]);
  note('command', { name: commands[0].name });
  await client.rest.channels.createMessage(channel, {
    content: 'hello',
    embeds: [{ title: 'Hall' }],
    files: [{ contents: Buffer.from('text'), name: 'a.txt' }],
  });
});

client.on('messageCreate', async ({ id, content, embeds, attachments }) => {
  if (content !== 'hello') return;
  note('message', {
    content,
    embeds: embeds.map(({ title }) => title),
    files: attachments.map(({ filename }) => filename),
  });
  await client.rest.channels.createReaction(channel, id, '👍');
});

client.on('messageReactionAdd', async (message, _, reaction) => {
  note('reaction', { emoji: reaction.emoji.name });
  await client.rest.channels.editMessage(channel, message.id, { content: 'hello again' });
});

client.on('messageUpdate', async (message) => {
  if (message.content !== 'hello again' || message.flags) return;
  note('edit', { content: message.content });
  const thread = await client.rest.channels.startThreadFromMessage(channel, message.id, {
    name: 'About it',
    autoArchiveDuration: 60,
  });
  await client.rest.channels.createMessage(thread.id, { content: 'in the thread' });
});

client.on('threadCreate', async (thread) => {
  note('thread', { name: thread.name });
  const history = await client.rest.channels.getMessages(channel, { limit: 5 });
  const message = history.find(({ content }) => content === 'hello again');
  note('history', { reactions: message.reactions.map(({ emoji, count }) => `${emoji.name} ${count}`) });
  await message.delete();
});

client.on('messageDelete', () => {
  note('delete');
  client.disconnect(false);
});

client.connect().catch(stop);
