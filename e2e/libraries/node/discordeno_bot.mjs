// A day of a discordeno bot. Ends by itself.

import { Intents, createBot, createDesiredPropertiesObject } from '@discordeno/bot';
import story from './story.js';

const { note } = story;
const channel = process.env.CHANNEL_ID;

const stop = (error) => {
  note('error', { message: String(error?.stack ?? error), cause: error?.cause });
  process.exit(1);
};
process.on('unhandledRejection', stop);

const log = (...words) => console.error(...words);
const bot = createBot({
  token: process.env.BOT_TOKEN,
  intents: Intents.Guilds | Intents.GuildMessages | Intents.GuildMessageReactions | Intents.MessageContent,
  desiredProperties: createDesiredPropertiesObject({}, true),
  rest: { proxy: { baseUrl: `${process.env.API_ORIGIN}/api` } },
  loggerFactory: () => ({ debug() {}, info() {}, warn: log, error: log, fatal: log }),
});

bot.events.guildCreate = async (guild) => {
  note('guild', { name: guild.name, channels: guild.channels.size });
  const commands = await bot.helpers.upsertGlobalApplicationCommands([{ name: 'ping', description: 'Answers' }]);
  note('command', { name: commands[0].name });
  await bot.helpers.sendMessage(channel, {
    content: 'hello',
    embeds: [{ title: 'Hall' }],
    files: [{ blob: new Blob(['text']), name: 'a.txt' }],
  });
};

bot.events.messageCreate = async ({ id, content, embeds, attachments }) => {
  if (content !== 'hello') return;
  note('message', {
    content,
    embeds: embeds.map(({ title }) => title),
    files: attachments.map(({ filename }) => filename),
  });
  await bot.helpers.addReaction(channel, id, '👍');
};

bot.events.reactionAdd = async ({ messageId, emoji }) => {
  note('reaction', { emoji: emoji.name });
  await bot.helpers.editMessage(channel, messageId, { content: 'hello again' });
};

bot.events.messageUpdate = async ({ id, content, hasThread }) => {
  if (content !== 'hello again' || hasThread) return;
  note('edit', { content });
  const thread = await bot.helpers.startThreadWithMessage(channel, id, {
    name: 'About it',
    autoArchiveDuration: 60,
  });
  await bot.helpers.sendMessage(thread.id, { content: 'in the thread' });
};

bot.events.threadCreate = async ({ name }) => {
  note('thread', { name });
  const history = await bot.helpers.getMessages(channel, { limit: 5 });
  const { id, reactions } = history.find(({ content }) => content === 'hello again');
  note('history', { reactions: reactions.map(({ emoji, count }) => `${emoji.name} ${count}`) });
  await bot.helpers.deleteMessage(channel, id);
};

bot.events.messageDelete = async () => {
  note('delete');
  await bot.shutdown();
  process.exit();
};

await bot.start();
