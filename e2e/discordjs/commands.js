'use strict';

// A discord.js bot that works by application commands, as anybody would write it; what it offers
// is told in `tests/it/bots/commands.rs`. It prints one JSON line per thing the test must know;
// the end of its stdin stops it.
//
// Settings: API_ORIGIN (http://host:port), BOT_TOKEN.

const readline = require('node:readline');
const {
  ActionRowBuilder,
  AttachmentBuilder,
  ButtonBuilder,
  ButtonStyle,
  Client,
  Events,
  GatewayIntentBits,
  MessageFlags,
  ModalBuilder,
  PermissionFlagsBits,
  SlashCommandBuilder,
  StringSelectMenuBuilder,
  TextInputBuilder,
  TextInputStyle,
} = require('discord.js');

const TASTES = ['cherry', 'chocolate', 'vanilla'];
const FILE = Buffer.from(Array.from({ length: 3000 }, (_, index) => index % 256));
const HOUR_MS = 3_600_000;

const say = (event, fields) => process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);

const greet = new SlashCommandBuilder()
  .setName('greet')
  .setDescription('Says hello')
  .addUserOption((who) => who.setName('who').setDescription('To whom').setRequired(true))
  .addIntegerOption((times) =>
    times.setName('times').setDescription('How often').setMinValue(1).setMaxValue(9),
  )
  .addStringOption((taste) =>
    taste.setName('taste').setDescription('Of the ice cream').setAutocomplete(true),
  );

const onSomebody = (name) => (subcommand) =>
  subcommand
    .setName(name)
    .setDescription(`${name} somebody`)
    .addUserOption((who) => who.setName('who').setDescription('Whom').setRequired(true));

const moderate = new SlashCommandBuilder()
  .setName('moderate')
  .setDescription('Keeps the peace')
  .setDefaultMemberPermissions(PermissionFlagsBits.ModerateMembers)
  .addSubcommand(onSomebody('timeout'))
  .addSubcommand(onSomebody('ban'))
  .addSubcommand(onSomebody('unban'))
  .addSubcommand((log) => log.setName('log').setDescription('Reads the audit log'));

const simple = (name) => new SlashCommandBuilder().setName(name).setDescription(`Does ${name}`);

const client = new Client({
  intents: [
    GatewayIntentBits.Guilds,
    GatewayIntentBits.GuildMessages,
    GatewayIntentBits.GuildModeration,
  ],
  rest: { api: `${process.env.API_ORIGIN}/api`, version: '10' },
});

client.once(Events.ClientReady, async () => {
  await client.application.commands.create(greet);
  const ofGuild = [...['panel', 'slow', 'thread', 'hook', 'upload'].map(simple), moderate];
  for (const guild of client.guilds.cache.values()) await guild.commands.set(ofGuild);
  say('registered', {});
});

const commands = {
  async greet(interaction) {
    const who = interaction.options.getUser('who');
    const times = interaction.options.getInteger('times') ?? 1;
    const taste = interaction.options.getString('taste') ?? 'nothing';
    await interaction.reply(`hello ${who.username}, ${times} times, with ${taste}`);
  },

  async panel(interaction) {
    const buttons = new ActionRowBuilder().addComponents(
      new ButtonBuilder().setCustomId('press').setLabel('Press').setStyle(ButtonStyle.Primary),
      new ButtonBuilder().setCustomId('ask').setLabel('Ask').setStyle(ButtonStyle.Secondary),
    );
    const colours = new StringSelectMenuBuilder()
      .setCustomId('colour')
      .addOptions(['red', 'green'].map((colour) => ({ label: colour, value: colour })));
    const selects = new ActionRowBuilder().addComponents(colours);
    await interaction.reply({ content: 'pick one', components: [buttons, selects] });
  },

  async slow(interaction) {
    await interaction.deferReply();
    await interaction.editReply('done');
    await interaction.followUp({ content: 'only for you', flags: MessageFlags.Ephemeral });
  },

  async thread(interaction) {
    await interaction.deferReply();
    const message = await interaction.channel.send('a topic');
    const thread = await message.startThread({ name: 'aside', autoArchiveDuration: 60 });
    await thread.send('in here');
    await interaction.editReply('done');
  },

  async hook(interaction) {
    await interaction.deferReply();
    const webhook = await interaction.channel.createWebhook({ name: 'Courier' });
    const letter = await webhook.send({ content: 'a letter', username: 'Postman' });
    say('letter', { id: letter.id, webhook: letter.webhookId });
    await interaction.editReply('done');
  },

  async upload(interaction) {
    const file = new AttachmentBuilder(FILE, { name: 'bytes.bin', description: 'every byte' });
    await interaction.reply({ content: 'a file', files: [file] });
    const message = await interaction.fetchReply();
    const reply = await fetch(message.attachments.first().url);
    const same = FILE.equals(Buffer.from(await reply.arrayBuffer()));
    say('file', { same, name: message.attachments.first().name });
  },

  async moderate(interaction) {
    await interaction.deferReply();
    const { guild, options } = interaction;
    const who = options.getUser('who');
    const reason = 'enough é';
    switch (options.getSubcommand()) {
      case 'timeout':
        await (await guild.members.fetch(who)).timeout(HOUR_MS, reason);
        break;
      case 'ban':
        await guild.members.ban(who, { reason, deleteMessageSeconds: 3600 });
        break;
      case 'unban':
        await guild.members.unban(who, 'forgiven');
        break;
      case 'log': {
        const { entries } = await guild.fetchAuditLogs({ limit: 50 });
        for (const { action, targetId, executorId, reason, changes } of entries.values()) {
          const keys = changes.map((change) => change.key);
          say('log', { action, target: targetId, by: executorId, reason, changes: keys });
        }
      }
    }
    await interaction.editReply('done');
  },
};

const components = {
  press: (interaction) => interaction.update('pressed'),
  colour: (interaction) => interaction.update(`it is ${interaction.values[0]}`),
  ask: (interaction) => {
    const word = new TextInputBuilder()
      .setCustomId('word')
      .setLabel('A word')
      .setStyle(TextInputStyle.Short);
    const row = new ActionRowBuilder().addComponents(word);
    return interaction.showModal(
      new ModalBuilder().setCustomId('form').setTitle('A question').addComponents(row),
    );
  },
};

client.on(Events.InteractionCreate, async (interaction) => {
  if (interaction.isAutocomplete()) {
    const typed = interaction.options.getFocused();
    const fitting = TASTES.filter((taste) => taste.startsWith(typed));
    await interaction.respond(fitting.map((taste) => ({ name: taste, value: taste })));
  } else if (interaction.isChatInputCommand()) {
    await commands[interaction.commandName](interaction);
  } else if (interaction.isMessageComponent()) {
    await components[interaction.customId](interaction);
  } else if (interaction.isModalSubmit()) {
    await interaction.reply(`you wrote ${interaction.fields.getTextInputValue('word')}`);
  }
});
client.on(Events.GuildBanAdd, ({ user }) => say('banned', { user: user.id }));
client.on(Events.GuildBanRemove, ({ user }) => say('unbanned', { user: user.id }));
client.on(Events.Error, (error) => say('error', { message: error.stack }));
client.on(Events.ShardError, (error) => say('socket error', { message: String(error) }));

process.on('unhandledRejection', (error) => say('error', { message: error.stack ?? String(error) }));

readline.createInterface({ input: process.stdin }).on('close', async () => {
  await client.destroy();
  process.exit(0);
});

client.login(process.env.BOT_TOKEN);
