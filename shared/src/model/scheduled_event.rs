//! Scheduled events. Spec: objects.md › Scheduled event.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::User;
use crate::{
    Timestamp,
    id::{Id, marker},
};

/// Something a guild has announced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScheduledEvent {
    pub id: Id<marker::ScheduledEvent>,
    pub guild_id: Id<marker::Guild>,
    /// Null for what happens elsewhere.
    pub channel_id: Option<Id<marker::Channel>>,
    pub creator_id: Option<Id<marker::User>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creator: Option<User>,
    pub name: String,
    pub description: Option<String>,
    pub image: Option<String>,
    pub scheduled_start_time: Timestamp,
    pub scheduled_end_time: Option<Timestamp>,
    /// 2: for the guild only.
    pub privacy_level: u8,
    pub status: EventStatus,
    pub entity_type: EventEntity,
    pub entity_id: Option<Id<marker::Any>>,
    pub entity_metadata: Option<EventMetadata>,
    pub recurrence_rule: Option<RecurrenceRule>,
    pub guild_scheduled_event_exceptions: Vec<EventException>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_count: Option<u32>,
}

/// How far an event is: 1 scheduled, 2 active, 3 completed, 4 cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct EventStatus(pub u8);

impl EventStatus {
    pub const SCHEDULED: Self = Self(1);
    pub const ACTIVE: Self = Self(2);
    pub const COMPLETED: Self = Self(3);
    pub const CANCELED: Self = Self(4);

    /// Whether it can still take place or is taking place.
    pub fn is_open(self) -> bool {
        matches!(self, Self::SCHEDULED | Self::ACTIVE)
    }

    /// Whether an event that is `self` may become `next`.
    pub fn may_become(self, next: Self) -> bool {
        self == next && self.is_open()
            || matches!(
                (self, next),
                (Self::SCHEDULED, Self::ACTIVE | Self::CANCELED) | (Self::ACTIVE, Self::COMPLETED)
            )
    }
}

/// Where an event takes place: 1 on a stage, 2 in a voice channel, 3 elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct EventEntity(pub u8);

impl EventEntity {
    pub const STAGE: Self = Self(1);
    pub const VOICE: Self = Self(2);
    pub const EXTERNAL: Self = Self(3);
}

/// The place of an event elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventMetadata {
    pub location: String,
}

/// On which dates an event takes place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecurrenceRule {
    pub start: Timestamp,
    pub end: Option<Timestamp>,
    /// 0 yearly, 1 monthly, 2 weekly, 3 daily.
    pub frequency: u8,
    pub interval: u32,
    /// 0 is Monday.
    pub by_weekday: Option<Vec<u8>>,
    pub by_n_weekday: Option<Vec<NthWeekday>>,
    pub by_month: Option<Vec<u8>>,
    pub by_month_day: Option<Vec<i8>>,
    pub by_year_day: Option<Vec<i16>>,
    pub count: Option<u32>,
}

/// The `n`th such weekday of a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NthWeekday {
    pub n: u8,
    pub day: u8,
}

/// One date of a recurring event that is moved or cancelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventException {
    pub event_id: Id<marker::ScheduledEvent>,
    pub event_exception_id: Id<marker::EventException>,
    pub scheduled_start_time: Option<Timestamp>,
    pub scheduled_end_time: Option<Timestamp>,
    pub is_canceled: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_starts_and_ends_or_is_cancelled_before() {
        let all = [1, 2, 3, 4].map(EventStatus);
        let allowed: Vec<(u8, u8)> = all
            .iter()
            .flat_map(|&from| all.map(|to| (from, to)))
            .filter(|(from, to)| from.may_become(*to))
            .map(|(from, to)| (from.0, to.0))
            .collect();
        assert_eq!(allowed, [(1, 1), (1, 2), (1, 4), (2, 2), (2, 3)]);
    }
}
