//! Automod: what rules there are, and what they find in messages and names.
//! Spec: objects.md › Auto moderation rule.
//!
//! [`mod@rule`] says what one is, [`matcher`] finds; [`judge`] asks a guild's rules about messages,
//! [`names`] about names. Never does anything about what was found: that is `routes::automod`.

mod judge;
mod matcher;
mod names;
mod presets;
pub(crate) mod rule;

pub(crate) use self::{
    judge::{Rules, Verdict},
    matcher::Found,
    names::{NameVerdict, Named, judge_name},
    rule::Rule,
};
