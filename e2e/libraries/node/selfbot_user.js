'use strict';

// A day of somebody who uses discord.js-selfbot-v13. Ends by itself.

const { note } = require('./story.js');

const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 18)) {
  note('old Node.js');
  process.exit();
}
const { Client } = require('discord.js-selfbot-v13');

const { API_ORIGIN: origin, TOKEN: token, CHANNEL_ID: channel, FRIEND_ID: friend } = process.env;
// Its requests go to a host of its own, if to no proxy.
const client = new Client({ http: { api: `${origin}/api`, agent: { uri: origin, proxyTunnel: false } } });

const stop = (error) => {
  note('error', { message: String(error?.stack ?? error) });
  process.exit(1);
};
process.on('unhandledRejection', stop);
client.on('error', stop);

client.once('ready', async () => {
  const guild = client.guilds.cache.first();
  note('guild', { name: guild.name, me: guild.members.me.id });
  note('request', { of: [...client.relationships.incomingCache.keys()] });
  await client.settings.setTheme('light');
  note('settings', { theme: client.settings.theme });
  const user = await client.users.fetch(friend);
  const profile = await user.getProfile();
  note('profile', { mutual: profile.mutual_guilds.map(({ id }) => client.guilds.cache.get(id).name) });
  await user.send('psst');
});

client.on('messageCreate', async (message) => {
  if (message.content === 'psst') {
    note('private', { with: message.channel.recipient.id });
    const files = [{ attachment: Buffer.from('text'), name: 'a.txt' }];
    await client.channels.cache.get(channel).send({ content: 'hello', files });
  }
  if (message.content === 'hello') {
    note('message', { content: message.content, files: message.attachments.map(({ name }) => name) });
    await message.react('👍');
  }
});

client.on('messageReactionAdd', async ({ emoji, message }) => {
  note('reaction', { emoji: emoji.name });
  await message.edit('hello again');
});

client.on('messageUpdate', async (_, message) => {
  if (message.content !== 'hello again' || message.hasThread) return;
  note('edit', { content: message.content });
  const thread = await message.startThread({ name: 'About it', autoArchiveDuration: 60 });
  await thread.send('in the thread');
});

client.on('threadCreate', async (thread) => {
  note('thread', { name: thread.name });
  const history = await client.channels.cache.get(channel).messages.fetch({ limit: 5 });
  const message = history.find(({ content }) => content === 'hello again');
  note('history', { reactions: message.reactions.cache.map(({ emoji, count }) => `${emoji.name} ${count}`) });
  await message.markRead();
  await message.delete();
});

client.on('messageDelete', () => {
  note('delete');
  client.destroy();
});

client.login(token).catch(stop);
