//! Scheduled events. Spec: objects.md › Scheduled event.

use serde::{Deserialize, Serialize};
use time::{Date, Duration, OffsetDateTime, UtcOffset};
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

impl ScheduledEvent {
    /// The event once it has taken place: completed, or waiting for its next date. An end that
    /// no date is far enough for is none.
    pub fn after_it(mut self) -> Self {
        self.entity_id = None;
        let canceled: Vec<u64> = self
            .guild_scheduled_event_exceptions
            .iter()
            .filter(|exception| exception.is_canceled)
            .map(|exception| exception.event_exception_id.created_ms())
            .collect();
        let next = self.recurrence_rule.as_ref().and_then(|rule| {
            let mut at = self.scheduled_start_time;
            // As many tries as there may be cancelled dates, and one.
            for _ in 0..=canceled.len() {
                at = rule.next_after(at)?;
                let ms = at.0.unix_timestamp_nanos() / 1_000_000;
                if !canceled.iter().any(|&canceled| i128::from(canceled) == ms) {
                    return Some(at);
                }
            }
            None
        });
        match next {
            Some(next) => {
                let length = self
                    .scheduled_end_time
                    .map(|end| end.0 - self.scheduled_start_time.0);
                self.scheduled_start_time = next;
                self.scheduled_end_time = length
                    .and_then(|length| next.0.checked_add(length))
                    .map(Timestamp);
                self.status = EventStatus::SCHEDULED;
            }
            None => self.status = EventStatus::COMPLETED,
        }
        self
    }
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

impl RecurrenceRule {
    pub const YEARLY: u8 = 0;
    pub const MONTHLY: u8 = 1;
    pub const WEEKLY: u8 = 2;
    pub const DAILY: u8 = 3;
    /// Every rule has a date within so many days: the 29th of February skips 8 years at most.
    const DAYS_AHEAD: i64 = 366 * 9;

    /// Whether the event takes place then by the rule.
    pub fn is_date(&self, at: Timestamp) -> bool {
        let at = at.0.to_offset(UtcOffset::UTC);
        let start = self.start.0.to_offset(UtcOffset::UTC);
        at >= start && at.time() == start.time() && self.is_day(start.date(), at.date())
    }

    /// The first date after `at`.
    pub fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        let start = self.start.0.to_offset(UtcOffset::UTC);
        let at = at.0.to_offset(UtcOffset::UTC);
        let first = if at < start { start } else { at };
        (0..Self::DAYS_AHEAD).find_map(|days| {
            let date = first.date().checked_add(Duration::days(days))?;
            let candidate = OffsetDateTime::new_utc(date, start.time());
            let fits = candidate > at && candidate >= start && self.is_day(start.date(), date);
            fits.then_some(Timestamp(candidate))
        })
    }

    fn is_day(&self, start: Date, date: Date) -> bool {
        let weekday = date.weekday().number_days_from_monday();
        match self.frequency {
            Self::DAILY => {
                let days = self.by_weekday.as_ref();
                days.is_none_or(|days| days.contains(&weekday))
            }
            Self::WEEKLY => {
                let monday = |date: Date| {
                    let since = date.weekday().number_days_from_monday();
                    date.to_julian_day() - i32::from(since)
                };
                let weeks = (monday(date) - monday(start)) / 7;
                let own = vec![start.weekday().number_days_from_monday()];
                let days = self.by_weekday.as_ref().unwrap_or(&own);
                days.contains(&weekday) && weeks.rem_euclid(self.interval.max(1) as i32) == 0
            }
            Self::MONTHLY => match &self.by_n_weekday {
                Some(days) => {
                    let n = (date.day() - 1) / 7 + 1;
                    days.iter().any(|nth| nth.n == n && nth.day == weekday)
                }
                None => date.day() == start.day(),
            },
            _ => match (&self.by_month, &self.by_month_day) {
                (Some(months), Some(days)) => {
                    months.contains(&u8::from(date.month()))
                        && days.iter().any(|&day| u8::try_from(day) == Ok(date.day()))
                }
                _ => (date.month(), date.day()) == (start.month(), start.day()),
            },
        }
    }
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

    fn at(text: &str) -> Timestamp {
        serde_json::from_value(serde_json::json!(text)).unwrap()
    }

    fn rule(frequency: u8) -> RecurrenceRule {
        RecurrenceRule {
            // A Tuesday.
            start: at("2030-01-01T18:30:00Z"),
            end: None,
            frequency,
            interval: 1,
            by_weekday: None,
            by_n_weekday: None,
            by_month: None,
            by_month_day: None,
            by_year_day: None,
            count: None,
        }
    }

    #[test]
    fn an_event_waits_for_its_next_date_if_there_is_one() {
        let event = ScheduledEvent {
            id: Id::from_db(1),
            guild_id: Id::from_db(2),
            channel_id: None,
            creator_id: None,
            creator: None,
            name: "Chess".to_owned(),
            description: None,
            image: None,
            scheduled_start_time: at("2030-01-01T18:30:00Z"),
            scheduled_end_time: Some(at("2030-01-01T20:00:00Z")),
            privacy_level: 2,
            status: EventStatus::ACTIVE,
            entity_type: EventEntity::VOICE,
            entity_id: None,
            entity_metadata: None,
            recurrence_rule: Some(rule(RecurrenceRule::DAILY)),
            guild_scheduled_event_exceptions: Vec::new(),
            user_count: None,
        };
        let times = |event: &ScheduledEvent| {
            let after = event.clone().after_it();
            let (start, end) = (after.scheduled_start_time, after.scheduled_end_time);
            (after.status, start, end)
        };
        let next = at("2030-01-02T18:30:00Z");
        let end = Some(at("2030-01-02T20:00:00Z"));
        assert_eq!(times(&event), (EventStatus::SCHEDULED, next, end));

        let endless = ScheduledEvent {
            scheduled_end_time: Some(at("9999-12-31T23:00:00Z")),
            ..event.clone()
        };
        assert_eq!(times(&endless), (EventStatus::SCHEDULED, next, None));

        let last = ScheduledEvent {
            scheduled_start_time: at("9999-12-31T18:30:00Z"),
            scheduled_end_time: None,
            ..event
        };
        let start = last.scheduled_start_time;
        assert_eq!(times(&last), (EventStatus::COMPLETED, start, None));
    }

    #[test]
    fn rules_give_the_next_date() {
        let weekly = RecurrenceRule {
            interval: 2,
            by_weekday: Some(vec![1]),
            ..rule(RecurrenceRule::WEEKLY)
        };
        let monthly = RecurrenceRule {
            by_n_weekday: Some(vec![NthWeekday { n: 2, day: 4 }]),
            ..rule(RecurrenceRule::MONTHLY)
        };
        let yearly = RecurrenceRule {
            by_month: Some(vec![2]),
            by_month_day: Some(vec![29]),
            ..rule(RecurrenceRule::YEARLY)
        };
        let working = RecurrenceRule {
            by_weekday: Some(vec![0, 1, 2, 3, 4]),
            ..rule(RecurrenceRule::DAILY)
        };
        for (rule, after, next) in [
            (&weekly, "2030-01-01T18:30:00Z", "2030-01-15T18:30:00Z"),
            (&weekly, "2029-01-01T00:00:00Z", "2030-01-01T18:30:00Z"),
            (&monthly, "2030-01-01T18:30:00Z", "2030-01-11T18:30:00Z"),
            (&monthly, "2030-01-11T18:30:00Z", "2030-02-08T18:30:00Z"),
            (&yearly, "2030-01-01T18:30:00Z", "2032-02-29T18:30:00Z"),
            (&working, "2030-01-04T18:30:00Z", "2030-01-07T18:30:00Z"),
            (&working, "2030-01-04T18:00:00Z", "2030-01-04T18:30:00Z"),
        ] {
            assert_eq!(rule.next_after(at(after)), Some(at(next)), "after {after}");
            assert!(rule.is_date(at(next)));
            assert!(!rule.is_date(at("2030-01-02T18:31:00Z")));
        }
        let never = RecurrenceRule {
            by_month: Some(vec![2]),
            by_month_day: Some(vec![31]),
            ..rule(RecurrenceRule::YEARLY)
        };
        assert_eq!(never.next_after(at("2030-01-01T18:30:00Z")), None);
    }
}
