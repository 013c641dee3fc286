//! How a session is to be seen: what op 3 may say, how often, and what becomes of it.
//! Spec: gateway.md › Presence, Rate limits and size.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use guildhall_shared::model::{Activity, Presence, SessionState, Status};
use serde_json::{Map, Value, value::RawValue};

use super::Session;
use crate::codec::{ActivityCommand, PresenceCommand};

/// Changes per [`WINDOW`]; the surplus is dropped without a word.
pub const CHANGES_MAX: u8 = 5;
pub const WINDOW: Duration = Duration::from_secs(20);

/// Types of activity with rules of their own.
const PLAYING: u8 = 0;
const STREAMING: u8 = 1;
const CUSTOM: u8 = 4;
/// Where one may stream.
const STREAM_HOSTS: [&str; 2] = ["twitch.tv", "youtube.com"];

/// What a session does, and how often it has said so lately.
#[derive(Debug)]
pub struct Doing {
    activities: Arc<Vec<Activity>>,
    window_start: Instant,
    used: u8,
}

impl Doing {
    /// Of a session that comes from another core.
    pub(super) fn resumed(
        activities: Option<Arc<Vec<Activity>>>,
        now: Instant,
    ) -> Option<Box<Self>> {
        let activities = activities?;
        Some(Box::new(Self {
            activities,
            window_start: now,
            used: 0,
        }))
    }
}

impl Session {
    /// What others see of this session alone.
    pub fn presence(&self) -> Presence {
        Presence::of_session(self.platform, self.status, self.activities())
    }

    /// What the user's own clients see of it.
    pub fn state(&self) -> SessionState {
        SessionState {
            id: self.id.bytes(),
            status: self.status,
            platform: self.platform,
            activities: self.activities().cloned(),
        }
    }

    pub(super) fn activities(&self) -> Option<&Arc<Vec<Activity>>> {
        self.doing.as_deref().map(|doing| &doing.activities)
    }

    /// Takes IDENTIFY's presence; `settings` is the account's status.
    pub fn begin_presence(
        &mut self,
        now: Instant,
        now_ms: u64,
        command: Option<&PresenceCommand>,
        settings: Status,
    ) {
        self.status = command
            .and_then(|command| command.status)
            .unwrap_or(settings);
        let activities = command.map_or(&[][..], |command| &command.activities);
        let activities = shown(activities, self.bot, now_ms, &[]);
        if !activities.is_empty() {
            self.doing = Some(Box::new(Doing {
                activities: Arc::new(activities),
                window_start: now,
                used: 0,
            }));
        }
    }

    /// Takes op 3; false if it is one too many, or changes nothing.
    pub fn set_presence(&mut self, now: Instant, now_ms: u64, command: &PresenceCommand) -> bool {
        let doing = self.doing.get_or_insert_with(|| {
            Box::new(Doing {
                activities: Arc::default(),
                window_start: now,
                used: 0,
            })
        });
        if now.duration_since(doing.window_start) >= WINDOW {
            (doing.window_start, doing.used) = (now, 0);
        }
        if doing.used >= CHANGES_MAX {
            return false;
        }
        doing.used += 1;
        let status = command.status.unwrap_or(self.status);
        let activities = shown(&command.activities, self.bot, now_ms, &doing.activities);
        if status == self.status && activities == *doing.activities {
            return false;
        }
        self.status = status;
        doing.activities = Arc::new(activities);
        true
    }
}

/// Activities as others are shown them; one that goes on keeps its `created_at`.
fn shown(
    commands: &[ActivityCommand],
    bot: bool,
    now_ms: u64,
    before: &[Activity],
) -> Vec<Activity> {
    let all = commands.iter().filter_map(|command| activity(command, bot));
    let mut shown: Vec<Activity> = Vec::new();
    for (key, mut fields) in all {
        let made = match before.iter().find(|known| known.key() == key) {
            Some(known) => known.clone(),
            None => {
                fields.insert("created_at".to_owned(), now_ms.into());
                let json = Value::Object(fields).to_string();
                match RawValue::from_string(json) {
                    Ok(json) => Activity::new(key, json),
                    Err(_) => continue,
                }
            }
        };
        if shown.iter().all(|known| known.key() != key) {
            shown.push(made);
        }
    }
    shown
}

/// `None` for an activity that shows nothing.
fn activity(command: &ActivityCommand, bot: bool) -> Option<(u64, Map<String, Value>)> {
    let mut fields = if bot {
        Map::new()
    } else {
        command.rest.clone()
    };
    let (mut kind, mut name) = (command.kind, command.name.clone());
    let url = command.url.as_deref().filter(|url| is_stream(url));
    match (kind, url) {
        (CUSTOM, _) => {
            name = "Custom Status".to_owned();
            if command.state.is_none() && !fields.contains_key("emoji") {
                return None;
            }
        }
        (STREAMING, Some(url)) => {
            fields.insert("url".to_owned(), url.into());
        }
        // Without an address there is nothing to watch.
        (STREAMING, None) => kind = PLAYING,
        _ => {}
    }
    if name.is_empty() {
        return None;
    }
    fields.insert("name".to_owned(), name.into());
    fields.insert("type".to_owned(), kind.into());
    if let Some(state) = &command.state {
        fields.insert("state".to_owned(), state.as_str().into());
    }
    let mut hasher = DefaultHasher::new();
    Value::Object(fields.clone()).to_string().hash(&mut hasher);
    let key = hasher.finish();
    let id = if kind == CUSTOM {
        "custom".to_owned()
    } else {
        format!("{key:016x}")
    };
    fields.insert("id".to_owned(), id.into());
    Some((key, fields))
}

fn is_stream(url: &str) -> bool {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    // With a port, or a user before another host, it is none of them: not every library reads it.
    let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next());
    host.is_some_and(|host| {
        let host = host.strip_prefix("www.").unwrap_or(host);
        STREAM_HOSTS.contains(&host)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn command(kind: u8, name: &str) -> ActivityCommand {
        ActivityCommand {
            kind,
            name: name.to_owned(),
            state: Some("state".to_owned()),
            url: None,
            rest: Map::from_iter([("details".to_owned(), json!("more"))]),
        }
    }

    fn json_of(activity: &Activity) -> Value {
        serde_json::from_str(activity.json().get()).unwrap()
    }

    #[test]
    fn a_bot_shows_four_fields_and_a_person_all() {
        let commands = [
            command(2, "song"),
            command(CUSTOM, ""),
            command(PLAYING, ""),
        ];
        let of_bot = shown(&commands, true, 5, &[]);
        let (song, custom) = (json_of(&of_bot[0]), json_of(&of_bot[1]));
        assert_eq!(of_bot.len(), 2, "a nameless one shows nothing");
        assert_eq!(song["name"], "song");
        assert_eq!((&song["type"], &song["created_at"]), (&json!(2), &json!(5)));
        assert!(song["id"].is_string() && song.get("details").is_none());
        assert_eq!(custom["name"], "Custom Status");
        assert_eq!(custom["id"], "custom");
        let of_person = shown(&commands, false, 5, &[]);
        assert_eq!(json_of(&of_person[0])["details"], "more");
    }

    #[test]
    fn streams_are_on_the_two_sites() {
        for (url, kind) in [
            ("https://www.twitch.tv/x", STREAMING),
            ("https://youtube.com/watch?v=1", STREAMING),
            ("https://twitch.tv.evil.example/x", PLAYING),
            ("twitch.tv/x", PLAYING),
            ("https://twitch.tv:99999/x", PLAYING),
            ("https://twitch.tv:x@evil.example/", PLAYING),
        ] {
            let command = ActivityCommand {
                url: Some(url.to_owned()),
                ..command(STREAMING, "live")
            };
            let json = json_of(&shown(&[command], true, 0, &[])[0]);
            assert_eq!(json["type"], kind, "{url}");
            assert_eq!(json.get("url").is_some(), kind == STREAMING, "{url}");
        }
    }

    #[test]
    fn what_goes_on_keeps_its_beginning() {
        let first = shown(&[command(2, "song")], true, 5, &[]);
        assert_eq!(
            shown(&[command(2, "song"), command(2, "song")], true, 9, &first),
            first
        );
    }
}
