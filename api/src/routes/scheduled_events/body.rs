//! What requests say of a scheduled event, and which events there can be.

use guildhall_shared::{
    Id, Timestamp,
    error_code::ErrorCode,
    id::marker::{self, Channel, Guild},
    model::{
        EventEntity, EventMetadata, EventStatus, NthWeekday, RecurrenceRule, ScheduledEvent, User,
        present,
    },
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::Result,
    extract::Form,
    form::{Fault, FormErrors},
    media::check_image,
    text::clean,
};

/// 2: for the guild only.
const PRIVACY_GUILD: u8 = 2;
/// Times of an event are within so many years.
const YEARS_AHEAD: i64 = 5;

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct CreateEvent {
    /// 1 to 100 characters.
    #[schema(required, min_length = 1, max_length = 100)]
    name: Option<String>,
    /// 1 to 1000 characters.
    description: Option<String>,
    pub(super) image: Option<String>,
    #[schema(required)]
    scheduled_start_time: Option<Timestamp>,
    /// Required for what takes place elsewhere.
    scheduled_end_time: Option<Timestamp>,
    #[schema(required)]
    privacy_level: Option<u8>,
    /// 1 stage, 2 voice, 3 elsewhere.
    #[schema(required)]
    entity_type: Option<u8>,
    channel_id: Option<Id<Channel>>,
    entity_metadata: Option<Metadata>,
    recurrence_rule: Option<Rule>,
}

#[derive(Debug, Clone, Serialize, Deserialize, Default, ToSchema)]
#[serde(default)]
struct Metadata {
    /// 1 to 100 characters.
    location: Option<String>,
}

/// A rule as requests have it: fields that cannot be set are only there to be refused.
#[derive(Debug, Clone, Serialize, Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct Rule {
    #[schema(required)]
    start: Option<Timestamp>,
    end: Option<Timestamp>,
    /// 0 yearly, 1 monthly, 2 weekly, 3 daily.
    #[schema(required)]
    frequency: Option<u8>,
    interval: Option<u32>,
    by_weekday: Option<Vec<u8>>,
    by_n_weekday: Option<Vec<NthWeekday>>,
    by_month: Option<Vec<u8>>,
    by_month_day: Option<Vec<i8>>,
    by_year_day: Option<Vec<i16>>,
    count: Option<u32>,
}

impl Rule {
    fn check(&self, form: &mut FormErrors) {
        form.required("recurrence_rule.start", &self.start);
        check_ahead(form, "recurrence_rule.start", self.start);
        let not_yet = || Fault::Other("RECURRENCE_RULE_INVALID", "This cannot be set.".into());
        for (field, is_set) in [
            ("end", self.end.is_some()),
            ("count", self.count.is_some()),
            ("by_year_day", self.by_year_day.is_some()),
        ] {
            if is_set {
                form.add(format!("recurrence_rule.{field}"), not_yet());
            }
        }
        let Some(&frequency) = form.required("recurrence_rule.frequency", &self.frequency) else {
            return;
        };
        if frequency > 3 {
            let fault = Fault::NotEnum(frequency.to_string());
            return form.add("recurrence_rule.frequency", fault);
        }
        let interval = self.interval.unwrap_or(1);
        let interval_max = if frequency == RecurrenceRule::WEEKLY {
            2
        } else {
            1
        };
        form.range(
            "recurrence_rule.interval",
            interval.into(),
            1..=interval_max,
        );
        let fits = |list: Option<usize>,
                    frequencies: &[u8],
                    lengths: std::ops::RangeInclusive<usize>| {
            list.is_none_or(|length| frequencies.contains(&frequency) && lengths.contains(&length))
        };
        let invalid = |form: &mut FormErrors, field: &str| {
            let message = "This does not fit the frequency.";
            let fault = Fault::Other("RECURRENCE_RULE_INVALID", message.into());
            form.add(format!("recurrence_rule.{field}"), fault);
        };
        let weekdays = self.by_weekday.as_ref().map(Vec::len);
        let weekdays_max = if frequency == RecurrenceRule::WEEKLY {
            1
        } else {
            7
        };
        let days = &[RecurrenceRule::WEEKLY, RecurrenceRule::DAILY];
        let known = self.by_weekday.iter().flatten().all(|&day| day < 7);
        if !fits(weekdays, days, 1..=weekdays_max) || !known {
            invalid(form, "by_weekday");
        }
        let nth = self.by_n_weekday.as_ref().map(Vec::len);
        let known = self.by_n_weekday.iter().flatten();
        let known = known
            .clone()
            .all(|nth| nth.day < 7 && (1..=5).contains(&nth.n));
        if !fits(nth, &[RecurrenceRule::MONTHLY], 1..=1) || !known {
            invalid(form, "by_n_weekday");
        }
        let yearly = &[RecurrenceRule::YEARLY];
        let months = self.by_month.as_ref().map(Vec::len);
        let month_days = self.by_month_day.as_ref().map(Vec::len);
        let known = self
            .by_month
            .iter()
            .flatten()
            .all(|month| (1..=12).contains(month));
        if !fits(months, yearly, 1..=1) || !known || months.is_some() != month_days.is_some() {
            invalid(form, "by_month");
        }
        let known = self
            .by_month_day
            .iter()
            .flatten()
            .all(|day| (1..=31).contains(day));
        if !fits(month_days, yearly, 1..=1) || !known {
            invalid(form, "by_month_day");
        }
    }

    fn rule(&self, start: Timestamp) -> RecurrenceRule {
        RecurrenceRule {
            start: self.start.unwrap_or(start),
            end: None,
            frequency: self.frequency.unwrap_or_default(),
            interval: self.interval.unwrap_or(1),
            by_weekday: self.by_weekday.clone(),
            by_n_weekday: self.by_n_weekday.clone(),
            by_month: self.by_month.clone(),
            by_month_day: self.by_month_day.clone(),
            by_year_day: None,
            count: None,
        }
    }
}

impl Form for CreateEvent {
    fn check(&self, form: &mut FormErrors) {
        if let Some(name) = form.required("name", &self.name) {
            form.length("name", name, 1..=100);
        }
        if let Some(description) = &self.description {
            form.length("description", description, 0..=1000);
        }
        check_image(form, "image", self.image.as_deref());
        form.required("scheduled_start_time", &self.scheduled_start_time);
        form.required("privacy_level", &self.privacy_level);
        form.required("entity_type", &self.entity_type);
        check_privacy(form, self.privacy_level);
        check_entity(form, self.entity_type);
        if let Some(rule) = &self.recurrence_rule {
            rule.check(form);
        }
    }
}

fn check_privacy(form: &mut FormErrors, level: Option<u8>) {
    if let Some(level) = level.filter(|&level| level != PRIVACY_GUILD) {
        form.add("privacy_level", Fault::NotEnum(level.to_string()));
    }
}

fn check_entity(form: &mut FormErrors, entity: Option<u8>) {
    if let Some(entity) = entity.filter(|entity| !(1..=3).contains(entity)) {
        form.add("entity_type", Fault::NotEnum(entity.to_string()));
    }
}

/// A fault at `path` for a time that is too far ahead for an event.
pub(super) fn check_ahead(form: &mut FormErrors, path: &str, at: Option<Timestamp>) {
    let last = Timestamp::now().0 + time::Duration::days(365 * YEARS_AHEAD);
    if at.is_some_and(|at| at.0 > last) {
        let message = "This is too far ahead.";
        let far = Fault::Other("DATE_TIME_TYPE_TOO_LATE", message.into());
        form.add(path, far);
    }
}

impl CreateEvent {
    /// The event it asks for. Errors: 50035.
    pub(super) fn event(
        self,
        id: Id<marker::ScheduledEvent>,
        guild_id: Id<Guild>,
        creator: &User,
    ) -> Result<ScheduledEvent> {
        let start = self.scheduled_start_time.unwrap_or_else(Timestamp::now);
        let event = ScheduledEvent {
            id,
            guild_id,
            channel_id: self.channel_id,
            creator_id: Some(creator.id),
            creator: Some(creator.clone()),
            name: clean(self.name.as_deref().unwrap_or_default()),
            description: text(self.description),
            image: None,
            scheduled_start_time: start,
            scheduled_end_time: self.scheduled_end_time,
            privacy_level: PRIVACY_GUILD,
            status: EventStatus::SCHEDULED,
            entity_type: EventEntity(self.entity_type.unwrap_or_default()),
            entity_id: None,
            entity_metadata: metadata(self.entity_metadata),
            recurrence_rule: self.recurrence_rule.map(|rule| rule.rule(start)),
            guild_scheduled_event_exceptions: Vec::new(),
            user_count: None,
        };
        let mut form = FormErrors::new();
        check_event(&event, None, &mut form);
        form.finish()?;
        Ok(event)
    }
}

fn text(text: Option<String>) -> Option<String> {
    text.map(|text| clean(&text))
        .filter(|text| !text.is_empty())
}

fn metadata(metadata: Option<Metadata>) -> Option<EventMetadata> {
    text(metadata?.location).map(|location| EventMetadata { location })
}

/// Faults of an event as a whole; times that it had `before` are no faults any more.
fn check_event(event: &ScheduledEvent, before: Option<&ScheduledEvent>, form: &mut FormErrors) {
    let (start, end) = (event.scheduled_start_time, event.scheduled_end_time);
    let fault = |code: &'static str, message: &'static str| Fault::Other(code, message.into());
    if before.is_none_or(|before| before.scheduled_start_time != start) {
        if start <= Timestamp::now() {
            let message = "Cannot schedule event in the past.";
            let past = fault("GUILD_SCHEDULED_EVENT_SCHEDULE_PAST", message);
            form.add("scheduled_start_time", past);
        }
        check_ahead(form, "scheduled_start_time", Some(start));
    }
    if end.is_some_and(|end| end <= start) {
        let message = "The event ends before it starts.";
        let early = fault("GUILD_SCHEDULED_EVENT_END_TIME_TOO_EARLY", message);
        form.add("scheduled_end_time", early);
    }
    if before.is_none_or(|before| before.scheduled_end_time != end) {
        check_ahead(form, "scheduled_end_time", end);
    }
    if event.entity_type == EventEntity::EXTERNAL {
        if event.channel_id.is_some() {
            let message = "What takes place elsewhere has no channel.";
            form.add("channel_id", fault("CHANNEL_INVALID", message));
        }
        match &event.entity_metadata {
            None => form.add("entity_metadata.location", Fault::Required),
            Some(metadata) => {
                form.length("entity_metadata.location", &metadata.location, 1..=100);
            }
        }
        if end.is_none() {
            form.add("scheduled_end_time", Fault::Required);
        }
    } else {
        if event.channel_id.is_none() {
            form.add("channel_id", Fault::Required);
        }
        if event.entity_metadata.is_some() {
            let message = "Only what takes place elsewhere has a location.";
            form.add("entity_metadata", fault("ENTITY_METADATA_INVALID", message));
        }
    }
}

/// An event that has opened its stage stays on it, and no other comes to one that is not open.
fn check_stage(event: &ScheduledEvent, before: &ScheduledEvent, form: &mut FormErrors) {
    let is_staged = [before, event]
        .iter()
        .any(|event| event.entity_type == EventEntity::STAGE);
    if before.status != EventStatus::ACTIVE || !is_staged {
        return;
    }
    for (path, is_same) in [
        ("entity_type", event.entity_type == before.entity_type),
        ("channel_id", event.channel_id == before.channel_id),
    ] {
        if !is_same {
            let message = "An event that has begun cannot go to or from a stage.";
            let code = "GUILD_SCHEDULED_EVENT_PLACE_INVALID";
            form.add(path, Fault::Other(code, message.into()));
        }
    }
}

#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(default)]
pub(super) struct UpdateEvent {
    /// 1 to 100 characters.
    name: Option<String>,
    #[serde(deserialize_with = "present")]
    description: Option<Option<String>>,
    #[serde(deserialize_with = "present")]
    pub(super) image: Option<Option<String>>,
    scheduled_start_time: Option<Timestamp>,
    #[serde(deserialize_with = "present")]
    scheduled_end_time: Option<Option<Timestamp>>,
    privacy_level: Option<u8>,
    entity_type: Option<u8>,
    /// 2 starts it, 3 ends it, 4 cancels it.
    status: Option<u8>,
    #[serde(deserialize_with = "present")]
    channel_id: Option<Option<Id<Channel>>>,
    #[serde(deserialize_with = "present")]
    entity_metadata: Option<Option<Metadata>>,
    #[serde(deserialize_with = "present")]
    recurrence_rule: Option<Option<Rule>>,
}

impl Form for UpdateEvent {
    fn check(&self, form: &mut FormErrors) {
        if let Some(name) = &self.name {
            form.length("name", name, 1..=100);
        }
        if let Some(Some(description)) = &self.description {
            form.length("description", description, 0..=1000);
        }
        check_image(
            form,
            "image",
            self.image.as_ref().and_then(Option::as_deref),
        );
        check_privacy(form, self.privacy_level);
        check_entity(form, self.entity_type);
        if let Some(status) = self.status.filter(|status| !(1..=4).contains(status)) {
            form.add("status", Fault::NotEnum(status.to_string()));
        }
        if let Some(Some(rule)) = &self.recurrence_rule {
            rule.check(form);
        }
    }
}

impl UpdateEvent {
    /// The event as it will be. Errors: 50035, 180000.
    pub(super) fn apply(self, before: &ScheduledEvent) -> Result<ScheduledEvent> {
        let mut event = before.clone();
        if let Some(name) = self.name {
            event.name = clean(&name);
        }
        if let Some(description) = self.description {
            event.description = text(description);
        }
        if let Some(start) = self.scheduled_start_time {
            event.scheduled_start_time = start;
        }
        if let Some(end) = self.scheduled_end_time {
            event.scheduled_end_time = end;
        }
        if let Some(entity) = self.entity_type {
            event.entity_type = EventEntity(entity);
            if event.entity_type == EventEntity::EXTERNAL && self.channel_id.is_none() {
                event.channel_id = None;
            } else if event.entity_type != EventEntity::EXTERNAL && self.entity_metadata.is_none() {
                event.entity_metadata = None;
            }
        }
        if let Some(channel) = self.channel_id {
            event.channel_id = channel;
        }
        if let Some(given) = self.entity_metadata {
            event.entity_metadata = metadata(given);
        }
        if let Some(rule) = self.recurrence_rule {
            event.recurrence_rule = rule.map(|rule| rule.rule(event.scheduled_start_time));
        }
        let mut form = FormErrors::new();
        let moved = event.scheduled_start_time != before.scheduled_start_time;
        if moved && before.status == EventStatus::ACTIVE {
            return Err(ErrorCode::FinishedEvent.into());
        }
        check_stage(&event, before, &mut form);
        check_event(&event, Some(before), &mut form);
        if let Some(status) = self.status.map(EventStatus) {
            if before.status.may_become(status) {
                event.status = status;
            } else {
                let message = "An event cannot go from its status to this one.";
                let fault = Fault::Other("GUILD_SCHEDULED_EVENT_STATUS_INVALID", message.into());
                form.add("status", fault);
            }
        }
        form.finish()?;
        if event.status == EventStatus::COMPLETED {
            event = event.after_it();
        }
        Ok(event)
    }
}
