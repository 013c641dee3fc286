//! What sessions ask of a guild's owner, answered from its state.

use bytes::Bytes;
use guildhall_shared::{Id, gateway::EventKind, id::marker::Guild};
use serde::Serialize;
use serde_json::Value;

use super::{EdgeId, FromOwner, Owner, guild::GuildState};
use crate::{
    bus::{Ask, Question},
    node::relay::frame::Tell,
};

#[derive(Serialize)]
struct Sounds<'a> {
    guild_id: Id<Guild>,
    soundboard_sounds: Vec<&'a Value>,
}

impl Owner {
    /// Answers a session of an edge. One who is no member is told nothing.
    pub(crate) fn ask(&self, edge: EdgeId, ask: Ask) {
        let dispatches = {
            let state = self.state.borrow();
            let realm = state.realms.get(&ask.guild.cast());
            let guild = realm.and_then(|entry| entry.realm.as_ref()?.guild_state());
            match guild.filter(|guild| guild.members.contains_key(&ask.user)) {
                Some(guild) => answer(guild, &ask),
                None => return,
            }
        };
        let to = ask.from;
        self.tell(edge, FromOwner::Tell(Box::new(Tell { to, dispatches })));
    }
}

fn answer(guild: &GuildState, ask: &Ask) -> Vec<(EventKind, Bytes)> {
    match ask.question {
        Question::Sounds => {
            let d = Sounds {
                guild_id: ask.guild,
                soundboard_sounds: guild.sounds.values().collect(),
            };
            vec![(EventKind::SoundboardSounds, body(&d))]
        }
    }
}

fn body(d: &impl Serialize) -> Bytes {
    let json = serde_json::to_vec(d).expect("string keys and finite numbers");
    json.into()
}
