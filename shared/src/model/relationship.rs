//! Relationships between people. Spec: objects.md › Relationship.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::User;
use crate::{
    Timestamp,
    id::{Id, marker},
};

/// How somebody stands to somebody else, seen from one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum RelationshipKind {
    Friend = 1,
    Blocked = 2,
    /// The other one has asked.
    Incoming = 3,
    /// This one has asked.
    Outgoing = 4,
}

impl From<RelationshipKind> for u8 {
    fn from(kind: RelationshipKind) -> Self {
        kind as Self
    }
}

impl TryFrom<u8> for RelationshipKind {
    type Error = &'static str;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        Ok(match number {
            1 => Self::Friend,
            2 => Self::Blocked,
            3 => Self::Incoming,
            4 => Self::Outgoing,
            _ => return Err("a relationship is 1 to 4"),
        })
    }
}

/// One person's relationship to `user`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Relationship {
    /// The other one's.
    pub id: Id<marker::User>,
    #[serde(rename = "type")]
    #[schema(value_type = u8)]
    pub kind: RelationshipKind,
    pub user: User,
    pub nickname: Option<String>,
    pub is_spam_request: bool,
    pub stranger_request: bool,
    pub user_ignored: bool,
    pub since: Timestamp,
}
