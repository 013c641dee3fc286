//! The rules of guilds about messages: kept compiled, asked by every message.

use std::sync::{Arc, Mutex, PoisonError};

use guildhall_shared::{Id, Permissions, id::marker::Guild};
use rustc_hash::FxHashMap;
use sqlx::PgExecutor;

use super::{
    matcher::{Found, Matcher},
    rule::{
        self, Action, BLOCK_MESSAGE, KEYWORD, MENTION_SPAM, MENTIONS_MAX, ON_MESSAGE, PRESET, Rule,
        SPAM, all,
    },
};
use crate::{
    access::{GuildAccess, Place},
    caller::CurrentUser,
    error::Result,
};

/// Guilds whose rules are kept compiled.
const GUILDS_MAX: usize = 4096;

/// Compiled rules by guild, as they were at a `state_seq` of its head. Events about rules
/// raise it, as those about permissions do.
#[derive(Debug, Default)]
pub(crate) struct Rules(Mutex<FxHashMap<Id<Guild>, (u64, Compiled)>>);

type Compiled = Arc<[CompiledRule]>;

#[derive(Debug)]
struct CompiledRule {
    rule: Rule,
    matcher: Matcher,
}

impl CompiledRule {
    /// `None` for rules that look at no messages.
    fn new(rule: Rule) -> Option<Self> {
        if !rule.enabled || rule.event_type != ON_MESSAGE {
            return None;
        }
        let data = &rule.trigger_metadata;
        let matcher = match rule.trigger_type {
            KEYWORD => data.words(),
            PRESET => {
                let presets = data.presets.as_deref().unwrap_or_default();
                Matcher::presets(presets, all(&data.allow_list))
            }
            MENTION_SPAM => {
                let limit = data.mention_total_limit.unwrap_or(MENTIONS_MAX);
                Matcher::Mentions(limit as usize)
            }
            SPAM => Matcher::Spam,
            _ => return None,
        };
        Some(Self { rule, matcher })
    }
}

impl Rules {
    async fn of(&self, db: impl PgExecutor<'_>, guild: &GuildAccess) -> Result<Compiled> {
        let known = self.lock().get(&guild.id).cloned();
        if let Some((_, rules)) = known.filter(|(at, _)| *at == guild.state_seq) {
            return Ok(rules);
        }
        let rules = Box::pin(rule::rules(db, guild.id)).await?;
        let rules: Compiled = rules.into_iter().filter_map(CompiledRule::new).collect();
        let mut all = self.lock();
        if all.len() >= GUILDS_MAX {
            all.clear();
        }
        all.insert(guild.id, (guild.state_seq, Arc::clone(&rules)));
        Ok(rules)
    }

    /// Asks the guild's rules about the texts of a message (`messages::all_texts`) or the name of a
    /// thread, which are put together only if there are rules. Bots and who manages the guild are
    /// not asked about, nor is anybody in a DM.
    pub(crate) async fn judge<'a>(
        &self,
        db: impl PgExecutor<'_>,
        author: &CurrentUser,
        place: &Place,
        texts: impl FnOnce() -> Vec<&'a str>,
    ) -> Result<Verdict> {
        let Some(guild) = place.guild() else {
            return Ok(Verdict::default());
        };
        if author.bot || guild.base().contains(Permissions::MANAGE_GUILD) {
            return Ok(Verdict::default());
        }
        let rules = self.of(db, guild).await?;
        if rules.is_empty() {
            return Ok(Verdict::default());
        }
        let texts = texts();
        let text = texts.join("\n");
        let channel = place.id();
        let parent = place.thread().map(|thread| thread.parent.id);
        let hits = rules.iter().filter_map(|CompiledRule { rule, matcher }| {
            let is_exempt = rule
                .exempt_roles
                .iter()
                .any(|role| *role == guild.id.cast() || guild.member.roles.contains(role))
                || rule
                    .exempt_channels
                    .iter()
                    .any(|exempt| *exempt == channel || Some(*exempt) == parent);
            if is_exempt {
                return None;
            }
            Some((rule.clone(), matcher.find_in(&texts, &text)?))
        });
        let hits: Vec<_> = hits.collect();
        if hits.is_empty() {
            return Ok(Verdict::default());
        }
        Ok(Verdict { hits, text })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, FxHashMap<Id<Guild>, (u64, Compiled)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What rules found in texts; empty: nothing.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    hits: Vec<(Rule, Found)>,
    /// All that was looked at, if anything was found.
    pub(crate) text: String,
}

impl Verdict {
    pub(crate) fn is_clean(&self) -> bool {
        self.hits.is_empty()
    }

    /// Whether what says this must not be stored.
    pub(crate) fn blocks(&self) -> bool {
        self.actions()
            .any(|(_, _, action)| action.kind == BLOCK_MESSAGE)
    }

    pub(crate) fn actions(&self) -> impl Iterator<Item = (&Rule, &Found, &Action)> {
        self.hits
            .iter()
            .flat_map(|(rule, found)| rule.actions.iter().map(move |act| (rule, found, act)))
    }
}
