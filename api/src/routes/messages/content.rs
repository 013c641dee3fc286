//! What a message may hold: text, embeds, mentions. Pure: no database, no permissions.
//!
//! Spec: limits-and-errors › Field limits, Messages.

use guildhall_shared::{
    Id, Timestamp,
    id::marker::{Role, User},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    extract::null_is_default,
    form::{Fault, FormErrors},
};

/// Characters of text. Code points, not bytes.
const CONTENT_MAX: usize = 2000;
const EMBEDS_MAX: usize = 10;
/// Characters of all text in all embeds.
const EMBEDS_TEXT_MAX: usize = 6000;
const URL_MAX: usize = 2048;
const NONCE_MAX: usize = 25;
const MENTION_LIST_MAX: usize = 100;
/// Characters about an embed's picture.
const MEDIA_DESCRIPTION_MAX: usize = 4096;

/// A string or an integer, echoed as it came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Nonce {
    Number(i64),
    Text(String),
}

impl Nonce {
    pub(super) fn check(&self, form: &mut FormErrors) {
        if let Self::Text(text) = self {
            form.whole_length("nonce", text, 0..=NONCE_MAX);
        }
    }

    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Number(number) => Value::from(*number),
            Self::Text(text) => Value::from(text.as_str()),
        }
    }

    /// What tells one nonce from another: `1` and `"1"` are the same.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => storable(text),
        }
    }
}

/// Postgres keeps every character but one.
pub(super) fn storable(text: &str) -> String {
    text.replace('\0', "")
}

/// Content as it is stored: trimmed. Faults: too long.
pub(super) fn check_content(content: &str, form: &mut FormErrors) {
    form.length("content", content, 0..=CONTENT_MAX);
}

pub(super) fn clean_content(content: &str) -> String {
    let content = content.trim();
    if content.contains('\0') {
        storable(content).trim().to_owned()
    } else {
        content.to_owned()
    }
}

/// An embed as a request brings it and as it goes out again; anything else in it is dropped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Embed {
    /// What is sent by users is always rich.
    #[serde(rename = "type", skip_deserializing, default = "rich")]
    kind: &'static str,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    color: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    footer: Option<Footer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<Media>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    thumbnail: Option<Media>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    author: Option<Author>,
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    fields: Vec<Field>,
}

fn rich() -> &'static str {
    "rich"
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = EmbedFooter)]
struct Footer {
    #[serde(default)]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    icon_url: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = EmbedMedia)]
struct Media {
    #[serde(default)]
    url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = EmbedAuthor)]
struct Author {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    icon_url: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = EmbedField)]
struct Field {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    value: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    inline: bool,
}

impl Embed {
    fn is_empty(&self) -> bool {
        let author = self.author.as_ref().and_then(|author| author.name.as_ref());
        let footer = self.footer.as_ref().and_then(|footer| footer.text.as_ref());
        let texts = [
            self.title.as_ref(),
            self.description.as_ref(),
            author,
            footer,
        ];
        texts
            .into_iter()
            .flatten()
            .all(|text| text.trim().is_empty())
            && self.image.is_none()
            && self.thumbnail.is_none()
            && self.timestamp.is_none()
            && self.fields.is_empty()
    }

    /// Every text in it that counts towards the sum.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let author = self
            .author
            .as_ref()
            .and_then(|author| author.name.as_deref());
        let footer = self
            .footer
            .as_ref()
            .and_then(|footer| footer.text.as_deref());
        let fields = self
            .fields
            .iter()
            .flat_map(|field| [&field.name, &field.value]);
        [
            self.title.as_deref(),
            self.description.as_deref(),
            author,
            footer,
        ]
        .into_iter()
        .flatten()
        .chain(fields.flatten().map(String::as_str))
    }

    fn check(&self, at: &str, form: &mut FormErrors) {
        let path = |field: &str| format!("{at}.{field}");
        let mut text = |field: &str, text: &Option<String>, max: usize| {
            if let Some(text) = text {
                form.length(&path(field), text, 0..=max);
            }
        };
        text("title", &self.title, 256);
        text("description", &self.description, 4096);
        if let Some(footer) = &self.footer {
            text("footer.text", &footer.text, 2048);
        }
        if let Some(author) = &self.author {
            text("author.name", &author.name, 256);
        }
        for (field, media) in [
            ("image.description", &self.image),
            ("thumbnail.description", &self.thumbnail),
        ] {
            if let Some(media) = media {
                text(field, &media.description, MEDIA_DESCRIPTION_MAX);
            }
        }
        if let Some(color) = self.color {
            form.range(&path("color"), i64::from(color), 0..=0xFF_FFFF);
        }
        let urls = [
            ("url", self.url.as_ref()),
            (
                "footer.icon_url",
                self.footer
                    .as_ref()
                    .and_then(|footer| footer.icon_url.as_ref()),
            ),
            (
                "author.url",
                self.author.as_ref().and_then(|author| author.url.as_ref()),
            ),
            (
                "author.icon_url",
                self.author
                    .as_ref()
                    .and_then(|author| author.icon_url.as_ref()),
            ),
            (
                "image.url",
                self.image.as_ref().and_then(|media| media.url.as_ref()),
            ),
            (
                "thumbnail.url",
                self.thumbnail.as_ref().and_then(|media| media.url.as_ref()),
            ),
        ];
        for (field, url) in urls {
            let is_upload = field != "url"
                && field != "author.url"
                && url.is_some_and(|url| url.starts_with("attachment://"));
            match url {
                Some(url) if is_upload => form.whole_length(&path(field), url, 0..=URL_MAX),
                Some(url) => check_url(&path(field), url, form),
                None => {}
            }
        }
        for (field, media) in [("image", &self.image), ("thumbnail", &self.thumbnail)] {
            if media.as_ref().is_some_and(|media| media.url.is_none()) {
                form.add(format!("{at}.{field}.url"), Fault::Required);
            }
        }
        if self.fields.len() > 25 {
            form.add(path("fields"), Fault::BadLength { min: 0, max: 25 });
        }
        for (index, field) in self.fields.iter().enumerate().take(25) {
            for (key, text, max) in [("name", &field.name, 256), ("value", &field.value, 1024)] {
                let path = format!("{at}.fields.{index}.{key}");
                if let Some(text) = form.required(&path, text) {
                    form.length(&path, text, 1..=max);
                }
            }
        }
        if self.is_empty() {
            form.add(path("description"), Fault::Required);
        }
    }
}

pub(super) fn check_url(path: &str, url: &str, form: &mut FormErrors) {
    const SCHEME: &str = "URL_TYPE_INVALID_SCHEME";
    form.length(path, url, 0..=URL_MAX);
    match url.split_once("://") {
        Some(("http" | "https", rest))
            if !rest.is_empty() && !url.contains(char::is_whitespace) => {}
        Some((scheme, _)) if !matches!(scheme, "http" | "https") => {
            let shown: String = scheme.chars().take(20).collect();
            let message = format!(
                "Scheme \"{shown}\" is not supported. Scheme must be one of ('http', 'https')."
            );
            form.add(path, Fault::Other(SCHEME, message.into()));
        }
        _ => {
            let fault = Fault::Other("URL_TYPE_INVALID_URL", "Not a well formed URL.".into());
            form.add(path, fault);
        }
    }
}

pub(super) fn check_embeds(embeds: &[Embed], form: &mut FormErrors) {
    if embeds.len() > EMBEDS_MAX {
        form.add(
            "embeds",
            Fault::BadLength {
                min: 0,
                max: EMBEDS_MAX,
            },
        );
        return;
    }
    for (index, embed) in embeds.iter().enumerate() {
        embed.check(&format!("embeds.{index}"), form);
    }
    let texts = embeds.iter().flat_map(Embed::texts);
    if texts.map(|text| text.trim().chars().count()).sum::<usize>() > EMBEDS_TEXT_MAX {
        let message = "Embed size exceeds maximum size of 6000";
        form.add(
            "embeds",
            Fault::Other("MAX_EMBED_SIZE_EXCEEDED", message.into()),
        );
    }
}

/// Embeds as they are stored and sent. Errors never: they were numbers, text and lists before.
pub(super) fn embeds_to_json(embeds: &[Embed]) -> serde_json::Result<Vec<Value>> {
    let mut values = Vec::with_capacity(embeds.len());
    for embed in embeds {
        let mut value = serde_json::to_value(embed)?;
        make_storable(&mut value);
        drop_blank(&mut value);
        values.push(value);
    }
    Ok(values)
}

/// Libraries read no footer without a text and no author without a name: there are none then.
fn drop_blank(embed: &mut Value) {
    let Value::Object(map) = embed else { return };
    map.retain(|field, value| match field.as_str() {
        "title" | "description" => says_something(value),
        "footer" => says_something(&value["text"]),
        "author" => says_something(&value["name"]),
        _ => true,
    });
}

fn says_something(text: &Value) -> bool {
    text.as_str().is_some_and(|text| !text.trim().is_empty())
}

fn make_storable(value: &mut Value) {
    match value {
        Value::String(text) if text.contains('\0') || text.trim().len() != text.len() => {
            *text = clean_content(text);
        }
        Value::Array(list) => list.iter_mut().for_each(make_storable),
        Value::Object(map) => map.values_mut().for_each(make_storable),
        _ => {}
    }
}

/// Kinds of mention that the text may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = AllowedMentionKind)]
enum MentionKind {
    Users,
    Roles,
    Everyone,
}

/// Which mentions in the text count. Absent as a whole: all of them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct AllowedMentions {
    #[serde(deserialize_with = "null_is_default")]
    parse: Vec<Option<MentionKind>>,
    #[serde(deserialize_with = "null_is_default")]
    users: Vec<Option<Id<User>>>,
    #[serde(deserialize_with = "null_is_default")]
    roles: Vec<Option<Id<Role>>>,
    replied_user: Option<bool>,
}

impl AllowedMentions {
    pub(super) fn users_only() -> Self {
        Self {
            parse: vec![Some(MentionKind::Users)],
            ..Self::default()
        }
    }

    fn parses(&self, kind: MentionKind) -> bool {
        self.parse.contains(&Some(kind))
    }

    pub(super) fn check(&self, form: &mut FormErrors) {
        let lists = [
            ("users", MentionKind::Users, self.users.len()),
            ("roles", MentionKind::Roles, self.roles.len()),
        ];
        for (name, kind, len) in lists {
            let path = format!("allowed_mentions.{name}");
            if len > MENTION_LIST_MAX {
                form.add(
                    path,
                    Fault::BadLength {
                        min: 0,
                        max: MENTION_LIST_MAX,
                    },
                );
            } else if len > 0 && self.parses(kind) {
                let message =
                    format!("parse:[\"{name}\"] and {name}: [ids...] are mutually exclusive.");
                let code = "MESSAGE_ALLOWED_MENTIONS_PARSE_EXCLUSIVE";
                form.add("allowed_mentions", Fault::Other(code, message.into()));
            }
        }
    }
}

/// What a text mentions and may mention; whether the ids exist and the author may, is not
/// known here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Mentions {
    pub(super) users: Vec<Id<User>>,
    pub(super) roles: Vec<Id<Role>>,
    /// @everyone or @here.
    pub(super) everyone: bool,
    pub(super) replied_user: bool,
}

impl Mentions {
    pub(super) fn find(content: &str, allowed: Option<&AllowedMentions>) -> Self {
        let mut found = Self {
            replied_user: allowed.is_none_or(|allowed| allowed.replied_user.unwrap_or(false)),
            ..Self::default()
        };
        if !content.contains(['<', '@']) {
            return found;
        }
        let everyone = allowed.is_none_or(|allowed| allowed.parses(MentionKind::Everyone));
        found.everyone = everyone && (content.contains("@everyone") || content.contains("@here"));
        for after in content.split("<@").skip(1) {
            let Some((inside, _)) = after.split_once('>') else {
                continue;
            };
            if let Some(role) = inside.strip_prefix('&') {
                let Ok(role) = role.parse() else { continue };
                let counts = allowed.is_none_or(|allowed| {
                    allowed.parses(MentionKind::Roles) || allowed.roles.contains(&Some(role))
                });
                if counts && !found.roles.contains(&role) && found.roles.len() < MENTION_LIST_MAX {
                    found.roles.push(role);
                }
            } else if let Ok(user) = inside.strip_prefix('!').unwrap_or(inside).parse() {
                let counts = allowed.is_none_or(|allowed| {
                    allowed.parses(MentionKind::Users) || allowed.users.contains(&Some(user))
                });
                if counts && !found.users.contains(&user) && found.users.len() < MENTION_LIST_MAX {
                    found.users.push(user);
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(check: impl FnOnce(&mut FormErrors)) -> Value {
        let mut form = FormErrors::new();
        check(&mut form);
        form.to_json()
    }

    fn embeds(json: Value) -> Vec<Embed> {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn faults_of_embeds_name_their_path() {
        let embeds = embeds(json!([
            { "title": "fine" },
            { "title": "x".repeat(257), "url": "ftp://x", "color": 0x1000000,
              "fields": [{ "name": "", "value": "v" }, { "name": "n" }] },
            {},
        ]));
        let faults = faults(|form| check_embeds(&embeds, form));
        for (pointer, code) in [
            ("/embeds/1/title", "BASE_TYPE_MAX_LENGTH"),
            ("/embeds/1/url", "URL_TYPE_INVALID_SCHEME"),
            ("/embeds/1/color", "NUMBER_TYPE_MAX"),
            ("/embeds/1/fields/0/name", "BASE_TYPE_REQUIRED"),
            ("/embeds/1/fields/1/value", "BASE_TYPE_REQUIRED"),
            ("/embeds/2/description", "BASE_TYPE_REQUIRED"),
        ] {
            let found = faults.pointer(&format!("{pointer}/_errors/0/code"));
            assert_eq!(
                found.and_then(Value::as_str),
                Some(code),
                "{pointer}: {faults}"
            );
        }
        assert!(faults.pointer("/embeds/0").is_none());
    }

    #[test]
    fn all_embeds_together_hold_6000_characters() {
        let two = embeds(json!([
            { "description": "x".repeat(3000) }, { "description": "x".repeat(3001) },
        ]));
        let faults = faults(|form| check_embeds(&two, form));
        assert_eq!(
            faults["embeds"]["_errors"][0]["code"],
            "MAX_EMBED_SIZE_EXCEEDED"
        );
    }

    #[test]
    fn embeds_go_out_rich_and_without_what_is_not_theirs() {
        let embeds = embeds(json!([{
            "type": "video", "title": "a\0b", "provider": { "name": "x" }, "fields": null,
            "image": { "url": "https://example.org/a.png", "width": 7 },
        }]));
        assert_eq!(
            embeds_to_json(&embeds).unwrap(),
            [
                json!({ "type": "rich", "title": "ab", "image": { "url": "https://example.org/a.png" } })
            ]
        );
    }

    #[test]
    fn a_footer_has_a_text_and_an_author_a_name_or_they_are_none() {
        let icon = "https://example.org/a.png";
        let given = embeds(json!([{
            "title": " ", "description": "d", "footer": { "icon_url": icon },
            "author": { "name": null, "icon_url": icon },
        }]));
        assert!(faults(|form| check_embeds(&given, form)) == json!({}));
        assert_eq!(
            embeds_to_json(&given).unwrap(),
            [json!({ "type": "rich", "description": "d" })]
        );
        let blank = embeds(json!([
            { "title": "", "footer": { "icon_url": icon } },
            { "image": { "url": icon, "description": "x".repeat(4097) } },
        ]));
        let faults = faults(|form| check_embeds(&blank, form));
        for (pointer, code) in [
            ("/embeds/0/description", "BASE_TYPE_REQUIRED"),
            ("/embeds/1/image/description", "BASE_TYPE_MAX_LENGTH"),
        ] {
            let found = faults.pointer(&format!("{pointer}/_errors/0/code"));
            assert_eq!(found.and_then(Value::as_str), Some(code), "{faults}");
        }
    }

    #[test]
    fn the_space_around_a_text_is_no_way_past_its_limit() {
        let wide = format!("a{}", " ".repeat(5000));
        let embeds = embeds(json!([
            { "title": wide, "footer": { "text": wide }, "fields": [{ "name": wide, "value": wide }] },
            { "image": { "url": format!("attachment://{}", "x".repeat(2048)) } },
        ]));
        let faults = faults(|form| check_embeds(&embeds, form));
        let of_image = &faults["embeds"]["1"]["image"]["url"]["_errors"][0];
        assert_eq!(of_image["code"], "BASE_TYPE_MAX_LENGTH");
        assert!(faults["embeds"].get("0").is_none());
        let kept = json!({ "type": "rich", "title": "a", "footer": { "text": "a" },
            "fields": [{ "name": "a", "value": "a", "inline": false }] });
        assert_eq!(embeds_to_json(&embeds[..1]).unwrap(), [kept]);
    }

    fn find(content: &str, allowed: Option<Value>) -> (Vec<u64>, Vec<u64>, bool) {
        let allowed: Option<AllowedMentions> =
            allowed.map(|allowed| serde_json::from_value(allowed).unwrap());
        let found = Mentions::find(content, allowed.as_ref());
        let users = found.users.iter().map(|id| id.get()).collect();
        (
            users,
            found.roles.iter().map(|id| id.get()).collect(),
            found.everyone,
        )
    }

    #[test]
    fn mentions_are_those_of_the_text_that_are_allowed() {
        let text = "<@1> <@!2> <@1> <@&3> @everyone <@x> <@4 <#5> <@-6>";
        assert_eq!(find(text, None), (vec![1, 2], vec![3], true));
        assert_eq!(find(text, Some(json!({}))), (vec![], vec![], false));
        assert_eq!(
            find(
                text,
                Some(json!({ "parse": ["roles"], "users": ["2", "9"] }))
            ),
            (vec![2], vec![3], false)
        );
        assert!(find("@here", Some(json!({ "parse": ["everyone"] }))).2);
    }

    #[test]
    fn a_list_and_its_kind_exclude_each_other() {
        let allowed: AllowedMentions =
            serde_json::from_value(json!({ "parse": ["users"], "users": ["1"] })).unwrap();
        let faults = faults(|form| allowed.check(form));
        assert_eq!(
            faults["allowed_mentions"]["_errors"][0]["code"],
            "MESSAGE_ALLOWED_MENTIONS_PARSE_EXCLUSIVE"
        );
    }

    #[test]
    fn a_nonce_is_text_or_a_number() {
        let nonce = |json| serde_json::from_value::<Nonce>(json).ok();
        assert_eq!(
            nonce(json!(5)).unwrap().key(),
            nonce(json!("5")).unwrap().key()
        );
        assert_eq!(nonce(json!(-5)).unwrap().to_json(), json!(-5));
        assert!(nonce(json!(1.5)).is_none());
        assert!(nonce(json!({})).is_none());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(content: String) {
            Mentions::find(&content, None);
            clean_content(&content);
        }
    }
}
