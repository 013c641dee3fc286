//! Who is online, on what, doing what. Spec: gateway.md › Presence, objects.md › Presence.
//!
//! A [`Presence`] is what others see of some sessions of one user. Two of them merge into
//! what others see of both, in any order: sessions of a core, cores of a node, nodes of a
//! cluster. Most are two words with nothing behind them.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{Status, User};
use crate::id::{
    Id,
    marker::{Guild, User as UserMarker},
};

/// Activities of one user that others are shown, over all sessions; the rest is left out.
pub const ACTIVITIES_MAX: usize = 8;
/// Bytes of activities in one list of a user's own sessions: about what one session may say. Each of
/// them may say as much, and all of them get every list; the rest is left out.
const SESSIONS_BYTES_MAX: usize = 16 << 10;

/// What a client runs on: a key of `client_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Platform {
    Desktop = 0,
    Mobile = 1,
    Web = 2,
}

impl Platform {
    const ALL: [Self; 3] = [Self::Desktop, Self::Mobile, Self::Web];

    /// From `properties.browser` of an IDENTIFY.
    pub fn of_browser(browser: &str) -> Self {
        match browser {
            "Discord iOS" | "Discord Android" => Self::Mobile,
            "Discord Client" => Self::Desktop,
            _ => Self::Web,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Desktop => "desktop",
            Self::Mobile => "mobile",
            Self::Web => "web",
        }
    }
}

/// A status as others see it. The later one wins where sessions differ.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum OnlineStatus {
    #[default]
    Offline = 0,
    Idle = 1,
    Online = 2,
    Dnd = 3,
}

impl OnlineStatus {
    pub fn name(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Idle => "idle",
            Self::Online => "online",
            Self::Dnd => "dnd",
        }
    }

    fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Offline,
            1 => Self::Idle,
            2 => Self::Online,
            _ => Self::Dnd,
        }
    }
}

impl From<Status> for OnlineStatus {
    fn from(own: Status) -> Self {
        match own {
            Status::Online => Self::Online,
            Status::Idle => Self::Idle,
            Status::Dnd => Self::Dnd,
            Status::Invisible => Self::Offline,
        }
    }
}

/// The status on each platform, two bits each; all zero is offline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub struct Platforms(u8);

impl From<u8> for Platforms {
    fn from(bits: u8) -> Self {
        Self::from_bits(bits)
    }
}

impl From<Platforms> for u8 {
    fn from(platforms: Platforms) -> Self {
        platforms.0
    }
}

impl Platforms {
    pub fn one(platform: Platform, status: OnlineStatus) -> Self {
        Self((status as u8) << (platform as u8 * 2))
    }

    pub fn on(self, platform: Platform) -> OnlineStatus {
        OnlineStatus::from_bits(self.0 >> (platform as u8 * 2))
    }

    /// The status over all platforms.
    pub fn status(self) -> OnlineStatus {
        let all = Platform::ALL.into_iter().map(|platform| self.on(platform));
        all.max().unwrap_or_default()
    }

    pub fn merge(&mut self, other: Self) {
        let merged = Platform::ALL
            .into_iter()
            .map(|platform| Self::one(platform, self.on(platform).max(other.on(platform))).0);
        self.0 = merged.fold(0, |all, one| all | one);
    }

    /// For [`crate::online`]; bits of no platform are dropped.
    pub fn from_bits(bits: u8) -> Self {
        Self(bits & 0b11_11_11)
    }

    pub fn bits(self) -> u8 {
        self.0
    }
}

/// `client_status`: only the platforms that are not offline.
fn client_status<S: Serializer>(platforms: &Platforms, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for platform in Platform::ALL {
        let status = platforms.on(platform);
        if status != OnlineStatus::Offline {
            map.serialize_entry(platform.name(), &status)?;
        }
    }
    map.end()
}

/// One activity, as the JSON that others get.
#[derive(Debug, Clone)]
pub struct Activity {
    /// Tells equal activities of several sessions from different ones.
    key: u64,
    json: Box<RawValue>,
}

impl Activity {
    pub fn new(key: u64, json: Box<RawValue>) -> Self {
        Self { key, json }
    }

    pub fn key(&self) -> u64 {
        self.key
    }

    pub fn json(&self) -> &RawValue {
        &self.json
    }
}

impl PartialEq for Activity {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.json.get() == other.json.get()
    }
}

impl Eq for Activity {}

impl Serialize for Activity {
    /// As our own processes exchange it; clients get [`Activity::json`].
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.key, self.json.get()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Activity {
    /// Errors: the text is not JSON.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (key, json) = <(u64, String)>::deserialize(deserializer)?;
        let json = RawValue::from_string(json).map_err(de::Error::custom)?;
        Ok(Self { key, json })
    }
}

/// Activities as the list that clients get.
fn activities_json<S: Serializer>(list: &[Activity], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(Activity::json))
}

/// What others see of some sessions of one user. Offline by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    activities: Option<Arc<Vec<Activity>>>,
    platforms: Platforms,
}

impl Presence {
    /// Of one session. An invisible one is as if it were not there.
    pub fn of_session(
        platform: Platform,
        status: Status,
        activities: Option<&Arc<Vec<Activity>>>,
    ) -> Self {
        let status = OnlineStatus::from(status);
        if status == OnlineStatus::Offline {
            return Self::default();
        }
        Self {
            activities: activities.filter(|list| !list.is_empty()).cloned(),
            platforms: Platforms::one(platform, status),
        }
    }

    /// As it is remembered without its activities.
    pub fn of_platforms(platforms: Platforms) -> Self {
        Self {
            activities: None,
            platforms,
        }
    }

    pub fn platforms(&self) -> Platforms {
        self.platforms
    }

    pub fn status(&self) -> OnlineStatus {
        self.platforms.status()
    }

    pub fn is_offline(&self) -> bool {
        self.platforms == Platforms::default()
    }

    pub fn activities(&self) -> &[Activity] {
        self.activities.as_deref().map_or(&[], Vec::as_slice)
    }

    /// Adds what other sessions of the same user show.
    pub fn merge(&mut self, other: &Self) {
        self.platforms.merge(other.platforms);
        let Some(theirs) = &other.activities else {
            return;
        };
        let Some(own) = &mut self.activities else {
            self.activities = Some(theirs.clone());
            return;
        };
        let new = |activity: &&Activity| own.iter().all(|known| known.key != activity.key);
        let new: Vec<Activity> = theirs.iter().filter(new).cloned().collect();
        let room = ACTIVITIES_MAX.saturating_sub(own.len());
        if room > 0 && !new.is_empty() {
            Arc::make_mut(own).extend(new.into_iter().take(room));
        }
    }

    /// As clients read it.
    pub fn view<'a>(
        &'a self,
        user: PresenceUser<'a>,
        guild_id: Option<Id<Guild>>,
    ) -> PresenceView<'a> {
        PresenceView {
            user,
            guild_id,
            status: self.status(),
            activities: self.activities(),
            client_status: self.platforms,
        }
    }
}

/// `user` of a presence.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum PresenceUser<'a> {
    Id {
        id: Id<UserMarker>,
    },
    /// After a change of name or avatar.
    Whole(&'a User),
}

/// `d` of a PRESENCE_UPDATE; without `guild_id` an element of `presences`.
#[derive(Debug, Clone, Serialize)]
pub struct PresenceView<'a> {
    pub user: PresenceUser<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guild_id: Option<Id<Guild>>,
    pub status: OnlineStatus,
    #[serde(serialize_with = "activities_json")]
    pub activities: &'a [Activity],
    #[serde(serialize_with = "client_status")]
    pub client_status: Platforms,
}

/// One of a user's own sessions, as owners know it: an element of SESSIONS_REPLACE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    /// In hexadecimal it is what its client knows.
    pub id: [u8; 16],
    pub status: Status,
    pub platform: Platform,
    pub activities: Option<Arc<Vec<Activity>>>,
}

impl SessionState {
    /// As the user's own clients read a list of them: all sessions, and of what they do as much as
    /// there is room for.
    pub fn views<'a>(sessions: impl IntoIterator<Item = &'a Self>) -> Vec<SessionView<'a>> {
        let mut room = SESSIONS_BYTES_MAX;
        let sessions = sessions.into_iter();
        sessions.map(|session| session.view(&mut room)).collect()
    }

    /// `room`: bytes of activities that may still be told.
    fn view(&self, room: &mut usize) -> SessionView<'_> {
        let all = self.activities.as_deref().map_or(&[][..], Vec::as_slice);
        let fits = |activity: &&Activity| match room.checked_sub(activity.json.get().len()) {
            Some(left) => {
                *room = left;
                true
            }
            None => false,
        };
        let told = all.iter().take_while(fits).count();
        SessionView {
            session_id: hex::encode(self.id),
            status: self.status,
            activities: &all[..told],
            client_info: ClientInfo {
                client: self.platform,
                os: "other",
                version: 0,
            },
            active: true,
        }
    }
}

/// Element of SESSIONS_REPLACE and of READY's `sessions`.
#[derive(Debug, Clone, Serialize)]
pub struct SessionView<'a> {
    session_id: String,
    status: Status,
    #[serde(serialize_with = "activities_json")]
    activities: &'a [Activity],
    client_info: ClientInfo,
    active: bool,
}

#[derive(Debug, Clone, Serialize)]
struct ClientInfo {
    client: Platform,
    os: &'static str,
    version: u8,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn activity(key: u64) -> Activity {
        let json = format!(r#"{{"name":"{key}","type":0}}"#);
        Activity::new(key, RawValue::from_string(json).unwrap())
    }

    fn platform() -> impl Strategy<Value = Platform> {
        prop::sample::select(Platform::ALL.to_vec())
    }

    fn status() -> impl Strategy<Value = Status> {
        prop::sample::select(vec![
            Status::Online,
            Status::Idle,
            Status::Dnd,
            Status::Invisible,
        ])
    }

    prop_compose! {
        fn session()(
            platform in platform(),
            status in status(),
            keys in prop::collection::vec(0u64..4, 0..2),
        ) -> (Platform, Status, Vec<u64>) {
            (platform, status, keys)
        }
    }

    fn presence((platform, status, keys): &(Platform, Status, Vec<u64>)) -> Presence {
        let activities = Arc::new(keys.iter().copied().map(activity).collect::<Vec<_>>());
        Presence::of_session(*platform, *status, Some(&activities))
    }

    fn merged(all: &[Presence]) -> Presence {
        all.iter().fold(Presence::default(), |mut sum, one| {
            sum.merge(one);
            sum
        })
    }

    fn keys(presence: &Presence) -> Vec<u64> {
        let mut keys: Vec<u64> = presence.activities().iter().map(|one| one.key).collect();
        keys.sort_unstable();
        keys
    }

    proptest! {
        /// Against the definition: the strongest status of those who are not invisible, on
        /// each platform and over all; every activity of theirs once.
        #[test]
        fn a_merge_is_what_its_sessions_say(
            sessions in prop::collection::vec(session(), 0..6),
            split in any::<prop::sample::Index>(),
        ) {
            let all: Vec<Presence> = sessions.iter().map(presence).collect();
            let whole = merged(&all);
            let seen = |on: Option<Platform>| {
                let of = sessions.iter().filter(|(platform, ..)| on.is_none_or(|on| on == *platform));
                of.map(|(_, status, _)| OnlineStatus::from(*status)).max().unwrap_or_default()
            };
            prop_assert_eq!(whole.status(), seen(None));
            for platform in Platform::ALL {
                prop_assert_eq!(whole.platforms().on(platform), seen(Some(platform)));
            }
            let visible = sessions.iter().filter(|(_, status, _)| *status != Status::Invisible);
            let mut expected: Vec<u64> = visible.flat_map(|(.., keys)| keys.clone()).collect();
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(keys(&whole), expected);
            // Over cores and nodes, in whatever order.
            let (a, b) = all.split_at(if all.is_empty() { 0 } else { split.index(all.len()) });
            let parts = merged(&[merged(b), merged(a)]);
            prop_assert_eq!(parts.platforms(), whole.platforms());
            prop_assert_eq!(keys(&parts), keys(&whole));
            let json = serde_json::to_string(&whole).unwrap();
            prop_assert_eq!(serde_json::from_str::<Presence>(&json).unwrap(), whole);
        }
    }

    #[test]
    fn clients_read_status_platforms_and_activities() {
        let activities = Arc::new(vec![activity(7)]);
        let presence = Presence::of_session(Platform::Mobile, Status::Dnd, Some(&activities));
        let user = PresenceUser::Id {
            id: Id::new(5).unwrap(),
        };
        let view = serde_json::to_value(presence.view(user, Id::new(9))).unwrap();
        assert_eq!(
            view,
            json!({
                "user": {"id": "5"},
                "guild_id": "9",
                "status": "dnd",
                "activities": [{"name": "7", "type": 0}],
                "client_status": {"mobile": "dnd"},
            })
        );
        let gone = Presence::of_session(Platform::Web, Status::Invisible, Some(&activities));
        let user = PresenceUser::Id {
            id: Id::new(5).unwrap(),
        };
        let view: Value = serde_json::to_value(gone.view(user, None)).unwrap();
        assert_eq!(view["status"], "offline");
        assert_eq!(view["activities"], json!([]));
        assert_eq!(view["client_status"], json!({}));
    }

    #[test]
    fn of_many_sessions_that_do_a_lot_a_list_tells_no_more_than_of_one() {
        let long = Activity::new(1, {
            let json = json!({"name": "x".repeat(SESSIONS_BYTES_MAX / 4), "type": 0});
            RawValue::from_string(json.to_string()).unwrap()
        });
        let of = |number: u8, activities: &[Activity]| SessionState {
            id: [number; 16],
            status: Status::Online,
            platform: Platform::Web,
            activities: Some(Arc::new(activities.to_vec())),
        };
        let mut sessions = vec![of(0, &[activity(7), long.clone()])];
        sessions.extend((1..50).map(|number| of(number, &[long.clone(), activity(7)])));
        let told = |sessions: &[SessionState]| -> Vec<usize> {
            let views = SessionState::views(sessions);
            let views = views.iter().map(|view| serde_json::to_value(view).unwrap());
            let told = views.map(|view| view["activities"].as_array().map_or(0, Vec::len));
            told.collect()
        };
        let few = told(&sessions[..2]);
        assert_eq!(few, [2, 2]);
        let all = told(&sessions);
        assert_eq!(all.len(), 50, "each session is told of");
        assert_eq!((&all[..4], all[49]), (&[2, 2, 2, 0][..], 0));
        let bytes = serde_json::to_vec(&SessionState::views(&sessions)).unwrap();
        assert!(bytes.len() < SESSIONS_BYTES_MAX + 50 * 200);
    }

    #[test]
    fn a_presence_without_activities_is_two_words() {
        assert!(size_of::<Presence>() <= 2 * size_of::<usize>());
    }

    #[test]
    fn text_that_is_no_json_is_no_activity() {
        assert!(serde_json::from_str::<Activity>(r#"[1, "{\"a\":"]"#).is_err());
    }
}
