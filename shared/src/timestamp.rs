//! Timestamps as the wire wants them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

/// An instant, written `2026-01-02T03:04:05.678000+00:00`: six digits and an offset,
/// because some libraries refuse a `Z` or fewer digits. Read in any RFC 3339 form, as long as
/// it can be written again: in UTC its year has four digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub OffsetDateTime);

impl Timestamp {
    pub fn from_unix_ms(ms: u64) -> Self {
        let nanos = i128::from(ms) * 1_000_000;
        Self(OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH))
    }

    pub fn now() -> Self {
        Self(OffsetDateTime::now_utc())
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(at: OffsetDateTime) -> Self {
        Self(at)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.0.to_offset(UtcOffset::UTC);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}+00:00",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second(),
            at.microsecond(),
        )
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        OffsetDateTime::parse(&text, &Rfc3339)
            .ok()
            .and_then(|at| at.checked_to_offset(UtcOffset::UTC))
            .filter(|at| at.year() >= 0)
            .map(Self)
            .ok_or_else(|| de::Error::custom("not an ISO 8601 timestamp"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_with_six_digits_and_an_offset() {
        let at = Timestamp::from_unix_ms(1_767_323_045_678);
        let json = serde_json::to_string(&at).unwrap();
        assert_eq!(json, "\"2026-01-02T03:04:05.678000+00:00\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), at);
        let z: Timestamp = serde_json::from_str("\"2026-01-02T03:04:05.678Z\"").unwrap();
        assert_eq!(z, at);
    }

    #[test]
    fn what_is_read_can_be_written() {
        let read = |text: &str| serde_json::from_value::<Timestamp>(text.into());
        for text in ["9999-12-31T23:59:59-01:00", "0000-01-01T00:00:00+01:00"] {
            assert!(read(text).is_err(), "{text}");
        }
        for text in ["9999-12-31T23:59:59+01:00", "0000-01-01T00:00:00-01:00"] {
            let at = read(text).unwrap();
            assert_eq!(read(&at.to_string()).unwrap(), at, "{text}");
        }
    }
}
