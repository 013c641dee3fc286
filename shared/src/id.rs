//! Typed snowflakes.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    marker::PhantomData,
    num::NonZeroU64,
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Milliseconds between the Unix epoch and the first millisecond of 2015, where snowflakes start.
pub const DISCORD_EPOCH_MS: u64 = 1_420_070_400_000;

/// What an [`Id`] can point at. Never constructed.
pub mod marker {
    macro_rules! markers {
        ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
            $(
                $(#[$doc])*
                #[derive(Debug)]
                pub enum $name {}

                // It has no schema of its own; utoipa's derive wants one all the same.
                impl utoipa::PartialSchema for $name {
                    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                        utoipa::openapi::schema::empty().into()
                    }
                }
                impl utoipa::ToSchema for $name {}
            )*
        };
    }
    markers! {
        /// A guild; also the id of its @everyone role and of its realm.
        Guild,
        /// A channel of any kind.
        Channel,
        Message,
        /// An account, human or bot; also the id of its realm.
        User,
        Role,
        Application,
        /// An application's command.
        Command,
        Interaction,
        Attachment,
        StageInstance,
        ScheduledEvent,
        /// One date of a recurring event that differs.
        EventException,
        Integration,
        Emoji,
        Sticker,
        StickerPack,
        Sound,
        Webhook,
        /// A tag of a forum.
        Tag,
        /// A guild or a user: whatever has numbered events.
        Realm,
        /// A role or a user, as the target of a permission overwrite.
        Target,
        AuditEntry,
        AutomodRule,
        /// An id that does not say what it is of.
        Any,
    }
}

/// A snowflake that says what it identifies: 42 bits of milliseconds since
/// [`DISCORD_EPOCH_MS`], 10 bits of worker, 12 bits of counter. Never zero.
///
/// A decimal string in JSON; integers are accepted as well (several libraries send them).
pub struct Id<T>(NonZeroU64, PhantomData<fn() -> T>);

impl<T> Id<T> {
    /// `None` for zero and for values that do not fit a signed 64-bit integer.
    pub const fn new(value: u64) -> Option<Self> {
        if value > i64::MAX as u64 {
            return None;
        }
        match NonZeroU64::new(value) {
            Some(value) => Some(Self(value, PhantomData)),
            None => None,
        }
    }

    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// As Postgres keeps it.
    pub const fn to_db(self) -> i64 {
        self.0.get() as i64
    }

    /// From a `bigint` column that only ever held ids.
    ///
    /// # Panics
    /// If the column holds zero or a negative number, which no writer of ours stores.
    pub const fn from_db(value: i64) -> Self {
        match Self::new(value as u64) {
            Some(id) => id,
            None => panic!("ids in the database are positive"),
        }
    }

    /// The same number, meant as the id of something else
    /// (a guild's @everyone role has the guild's id).
    pub const fn cast<U>(self) -> Id<U> {
        Id(self.0, PhantomData)
    }

    /// Milliseconds since the Unix epoch at which this id was made.
    pub const fn created_ms(self) -> u64 {
        (self.get() >> 22) + DISCORD_EPOCH_MS
    }
}

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Id<T> {}
impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<T> Eq for Id<T> {}
impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}
impl<T> Hash for Id<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
impl<T> fmt::Display for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The text is not a decimal snowflake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a snowflake")]
pub struct ParseIdError;

impl<T> FromStr for Id<T> {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        // `u64::from_str` takes a leading plus sign; a snowflake has none.
        if !text.as_bytes().first().is_some_and(u8::is_ascii_digit) {
            return Err(ParseIdError);
        }
        text.parse().ok().and_then(Self::new).ok_or(ParseIdError)
    }
}

impl<T> Serialize for Id<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(&self.0)
        } else {
            serializer.serialize_u64(self.0.get())
        }
    }
}

impl<'de, T> Deserialize<'de> for Id<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);

        impl<T> de::Visitor<'_> for Visitor<T> {
            type Value = Id<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a snowflake")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Id<T>, E> {
                Id::new(value).ok_or_else(|| E::custom(ParseIdError))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Id<T>, E> {
                let value = u64::try_from(value).map_err(|_| E::custom(ParseIdError))?;
                self.visit_u64(value)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Id<T>, E> {
                text.parse().map_err(E::custom)
            }
        }

        if deserializer.is_human_readable() {
            deserializer.deserialize_any(Visitor(PhantomData))
        } else {
            deserializer.deserialize_u64(Visitor(PhantomData))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_integers_are_the_same_id() {
        let text: Id<marker::Guild> = serde_json::from_str("\"1180000000000000010\"").unwrap();
        let number: Id<marker::Guild> = serde_json::from_str("1180000000000000010").unwrap();
        assert_eq!(text, number);
        assert_eq!(
            serde_json::to_string(&text).unwrap(),
            "\"1180000000000000010\""
        );
    }

    #[test]
    fn what_is_no_snowflake_is_refused() {
        for bad in ["", "0", "-1", "+5", "12a", "9223372036854775808", " 1"] {
            assert_eq!(
                bad.parse::<Id<marker::User>>(),
                Err(ParseIdError),
                "{bad:?}"
            );
        }
        for bad in ["0", "-1", "1.5", "null", "true", "\"x\"", "[]"] {
            assert!(
                serde_json::from_str::<Id<marker::User>>(bad).is_err(),
                "{bad}"
            );
        }
    }
}
