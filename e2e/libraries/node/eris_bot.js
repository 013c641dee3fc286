'use strict';

// A day of an Eris bot. Ends by itself.

const Eris = require('eris');
const { agentTo } = require('./plain.js');
const { note } = require('./story.js');

const channel = process.env.CHANNEL_ID;
const client = new Eris(`Bot ${process.env.BOT_TOKEN}`, {
  intents: ['guilds', 'guildMessages', 'guildMessageReactions', 'messageContent'],
  rest: { agent: agentTo(process.env.API_ORIGIN), domain: new URL(process.env.API_ORIGIN).hostname },
});

const stop = (error) => {
  note('error', { message: String(error?.stack ?? error) });
  process.exitCode = 1;
  client.disconnect({ reconnect: false });
};
process.on('unhandledRejection', stop);
// A broken connection as well, which it resumes.
client.on('error', console.error);

client.once('ready', async () => {
  const guild = client.guilds.find(() => true);
  note('guild', { name: guild.name, channels: guild.channels.size });
  const commands = await client.bulkEditCommands([{ name: 'ping', description: 'Answers', type: 1 }]);
  note('command', { name: commands[0].name });
  const file = { file: Buffer.from('text'), name: 'a.txt' };
  await client.createMessage(channel, { content: 'hello', embeds: [{ title: 'Hall' }] }, file);
});

client.on('messageCreate', async ({ id, content, embeds, attachments }) => {
  if (content !== 'hello') return;
  note('message', {
    content,
    embeds: embeds.map(({ title }) => title),
    files: attachments.map(({ filename }) => filename),
  });
  await client.addMessageReaction(channel, id, '👍');
});

client.on('messageReactionAdd', async (message, emoji) => {
  note('reaction', { emoji: emoji.name });
  await client.editMessage(channel, message.id, { content: 'hello again' });
});

client.on('messageUpdate', async (message) => {
  if (message.content !== 'hello again' || message.flags) return;
  note('edit', { content: message.content });
  const thread = await client.createThreadWithMessage(channel, message.id, {
    name: 'About it',
    autoArchiveDuration: 60,
  });
  await client.createMessage(thread.id, 'in the thread');
});

client.on('threadCreate', async (thread) => {
  note('thread', { name: thread.name });
  const history = await client.getMessages(channel, { limit: 5 });
  const message = history.find(({ content }) => content === 'hello again');
  const reactions = Object.entries(message.reactions);
  note('history', { reactions: reactions.map(([emoji, { count }]) => `${emoji} ${count}`) });
  await message.delete();
});

client.on('messageDelete', () => {
  note('delete');
  client.disconnect({ reconnect: false });
});

client.connect().catch(stop);
