//! Lists of members as clients read them.

use bytes::Bytes;
use guildhall_shared::model::{Member, PresenceUser, PresenceView};
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use crate::node::owner::{
    guild::GuildState,
    member_list::{BLOCK_ROWS, Group, Op, Row},
    presence::Presences,
};

/// A group as clients read it.
#[derive(Serialize)]
pub(super) struct Header {
    id: String,
    count: usize,
}

impl From<(Group, usize)> for Header {
    fn from((group, count): (Group, usize)) -> Self {
        let id = group.name();
        Self { id, count }
    }
}

/// A row as clients read it.
struct Item<'a> {
    guild: &'a GuildState,
    presences: &'a Presences,
    row: &'a Row,
}

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "lowercase")]
        enum Shown<'a> {
            Group(Header),
            Member(Option<WithPresence<'a>>),
        }
        #[derive(Serialize)]
        struct WithPresence<'a> {
            #[serde(flatten)]
            member: &'a Member,
            presence: PresenceView<'a>,
        }
        match *self.row {
            Row::Group { group, count } => {
                Shown::Group(Header::from((group, count))).serialize(serializer)
            }
            Row::Member { user, .. } => {
                let presence = self.presences.of(user);
                let member = self.guild.members.get(&user);
                let member = member.map(|member| WithPresence {
                    member,
                    presence: presence.view(PresenceUser::Id { id: user }, None),
                });
                Shown::Member(member).serialize(serializer)
            }
        }
    }
}

/// One step of an update of a list.
pub(super) fn op_json(guild: &GuildState, presences: &Presences, op: &Op) -> Box<RawValue> {
    #[derive(Serialize)]
    #[serde(tag = "op", rename_all = "UPPERCASE")]
    enum Shown<'a> {
        Sync {
            range: [u32; 2],
            items: Vec<Item<'a>>,
        },
        Insert {
            index: usize,
            item: Item<'a>,
        },
        Update {
            index: usize,
            item: Item<'a>,
        },
        Delete {
            index: usize,
        },
        Invalidate {
            range: [u32; 2],
        },
    }
    let range = |block: u32| [block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS - 1];
    let item = |row| Item {
        guild,
        presences,
        row,
    };
    let shown = match op {
        Op::Sync { block, rows } => Shown::Sync {
            range: range(*block),
            items: rows.iter().map(item).collect(),
        },
        Op::Insert { index, row } => Shown::Insert {
            index: *index,
            item: item(row),
        },
        Op::Update { index, row } => Shown::Update {
            index: *index,
            item: item(row),
        },
        Op::Delete { index } => Shown::Delete { index: *index },
        Op::Invalidate { block } => Shown::Invalidate {
            range: range(*block),
        },
    };
    to_raw_value(&shown).expect("string keys and finite numbers")
}

pub(super) fn json_of(d: &impl Serialize) -> Bytes {
    let json = serde_json::to_vec(d).expect("string keys and finite numbers");
    json.into()
}
