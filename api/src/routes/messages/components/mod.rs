//! Components of messages: rows of buttons and selects, and the second kind (flag 1<<15)
//! with sections, texts, media and containers. Pure: no database, no permissions.
//!
//! What goes out holds known fields only, with their defaults and ids filled in.
//! Spec: objects.md › Components; limits-and-errors › Field limits.

mod controls;
mod fields;
mod layout;
mod link;

use std::collections::HashSet;

use serde_json::{Map, Value, json};

pub(crate) use self::link::{link_media, linked_files};
use crate::form::{Fault, FormErrors};

const ROWS_MAX: usize = 5;
/// Of the second kind, nested ones included.
const COMPONENTS_MAX: usize = 40;
/// Characters of all text displays of a message.
const TEXT_MAX: usize = 4000;

const ROW: i64 = 1;
const BUTTON: i64 = 2;
const STRING_SELECT: i64 = 3;
const CHANNEL_SELECT: i64 = 8;
const SECTION: i64 = 9;
const TEXT: i64 = 10;
const THUMBNAIL: i64 = 11;
const GALLERY: i64 = 12;
const FILE: i64 = 13;
const SEPARATOR: i64 = 14;
const CONTAINER: i64 = 17;

/// Where a component stands, and so which types it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Top,
    TopV2,
    Row,
    Section,
    Accessory,
    Container,
}

impl Place {
    fn allowed(self) -> (&'static [i64], &'static str) {
        match self {
            Self::Top => (&[ROW], "(1,)"),
            Self::TopV2 => (
                &[ROW, SECTION, TEXT, GALLERY, FILE, SEPARATOR, CONTAINER],
                "(1, 9, 10, 12, 13, 14, 17)",
            ),
            Self::Row => (&[BUTTON, 3, 5, 6, 7, 8], "(2, 3, 5, 6, 7, 8)"),
            Self::Section => (&[TEXT], "(10,)"),
            Self::Accessory => (&[BUTTON, THUMBNAIL], "(2, 11)"),
            Self::Container => (
                &[ROW, SECTION, TEXT, GALLERY, FILE, SEPARATOR],
                "(1, 9, 10, 12, 13, 14)",
            ),
        }
    }
}

/// Reads the components of a request; the faults go to `form` by their path.
///
/// `v2` is the message's flag. The result is whole only if there were no faults.
pub(crate) fn parse(values: &[Value], v2: bool, form: &mut FormErrors) -> Vec<Value> {
    let max = if v2 { COMPONENTS_MAX } else { ROWS_MAX };
    if values.len() > max {
        form.add("components", Fault::BadLength { min: 1, max });
        return Vec::new();
    }
    let mut parser = Parser {
        form,
        custom_ids: HashSet::new(),
        ids: HashSet::new(),
        count: 0,
        text: 0,
    };
    let place = if v2 { Place::TopV2 } else { Place::Top };
    let mut parsed = parser.list("components", values, place);
    let (count, text, mut ids) = (parser.count, parser.text, parser.ids);
    if v2 && count > COMPONENTS_MAX {
        let max = COMPONENTS_MAX;
        form.add("components", Fault::BadLength { min: 1, max });
    }
    if text > TEXT_MAX {
        let message = format!("The text of all components exceeds {TEXT_MAX} characters.");
        let code = "COMPONENT_DISPLAYABLE_TEXT_SIZE_EXCEEDED";
        form.add("components", Fault::Other(code, message.into()));
    }
    let mut next = 1;
    for component in &mut parsed {
        number(component, &mut next, &mut ids);
    }
    parsed
}

/// Reads a select that stands at `path` of another form than a message.
pub(crate) fn parse_select(path: &str, select: &Value, form: &mut FormErrors) -> Option<Value> {
    let mut parser = Parser {
        form,
        custom_ids: HashSet::new(),
        ids: HashSet::new(),
        count: 0,
        text: 0,
    };
    parser.component(path, select, Place::Row)
}

/// Gives an id to every component that has none, in reading order.
fn number(component: &mut Value, next: &mut i64, taken: &mut HashSet<i64>) {
    let Value::Object(map) = component else {
        return;
    };
    if map.get("id").and_then(Value::as_i64) == Some(0) {
        while !taken.insert(*next) {
            *next += 1;
        }
        map.insert("id".to_owned(), json!(*next));
    }
    for child in map
        .get_mut("components")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        number(child, next, taken);
    }
    if let Some(accessory) = map.get_mut("accessory") {
        number(accessory, next, taken);
    }
}

/// The components by `custom_id` that somebody could use, for interactions.
pub(crate) fn find_custom_id<'a>(components: &'a [Value], custom_id: &str) -> Option<&'a Value> {
    components.iter().find_map(|component| {
        if component["custom_id"] == custom_id {
            return Some(component);
        }
        let children = component["components"].as_array().map(Vec::as_slice);
        find_custom_id(children.unwrap_or_default(), custom_id).or_else(|| {
            let accessory = component.get("accessory")?;
            (accessory["custom_id"] == custom_id).then_some(accessory)
        })
    })
}

/// The texts of all text displays.
pub(super) fn texts(components: &[Value]) -> Vec<&str> {
    let mut texts = Vec::new();
    for component in components {
        if component["type"] == TEXT {
            texts.extend(component["content"].as_str());
        }
        let children = component["components"].as_array().map(Vec::as_slice);
        texts.extend(self::texts(children.unwrap_or_default()));
    }
    texts
}

struct Parser<'f> {
    form: &'f mut FormErrors,
    custom_ids: HashSet<String>,
    /// Given by the request.
    ids: HashSet<i64>,
    count: usize,
    /// Characters.
    text: usize,
}

/// A component of the request.
struct Node<'a> {
    path: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Node<'a> {
    fn at(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    /// What is null counts as absent.
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }
}

impl Parser<'_> {
    fn list(&mut self, path: &str, values: &[Value], place: Place) -> Vec<Value> {
        let values = values.iter().enumerate().filter_map(|(index, value)| {
            let path = format!("{path}.{index}");
            self.component(&path, value, place)
        });
        values.collect()
    }

    fn component(&mut self, path: &str, value: &Value, place: Place) -> Option<Value> {
        let Value::Object(map) = value else {
            self.form.add(path, Fault::NotObject);
            return None;
        };
        let node = Node { path, map };
        let (allowed, choices) = place.allowed();
        let kind = match node.value("type") {
            None => {
                self.form.add(node.at("type"), Fault::Required);
                return None;
            }
            Some(kind) => kind.as_i64().filter(|kind| allowed.contains(kind)),
        };
        let Some(kind) = kind else {
            let message = format!("Value of field \"type\" must be one of {choices}.");
            let fault = Fault::Other("UNION_TYPE_CHOICES", message.into());
            self.form.add(node.at("type"), fault);
            return None;
        };
        self.count += 1;
        let id = self
            .integer(&node, "id", 0..=i64::from(i32::MAX))
            .unwrap_or(0);
        if id != 0 && !self.ids.insert(id) {
            self.duplicate(node.at("id"), "COMPONENT_ID_DUPLICATED", "Component id");
        }
        let mut out = Map::new();
        out.insert("type".to_owned(), json!(kind));
        out.insert("id".to_owned(), json!(id));
        match kind {
            ROW => self.row(&node, &mut out),
            BUTTON => self.button(&node, &mut out),
            STRING_SELECT..=CHANNEL_SELECT => self.select(kind, &node, &mut out),
            SECTION => self.section(&node, &mut out),
            TEXT => {
                let content = self.text(&node, "content", 1..=TEXT_MAX, true);
                let content = content.unwrap_or_default();
                self.text += content.chars().count();
                out.insert("content".to_owned(), json!(content));
            }
            THUMBNAIL => self.media_item(&node, &mut out),
            GALLERY => self.gallery(&node, &mut out),
            FILE => self.file(&node, &mut out),
            SEPARATOR => {
                let spacing = self.integer(&node, "spacing", 1..=2).unwrap_or(1);
                let divider = self.flag(&node, "divider").unwrap_or(true);
                out.insert("spacing".to_owned(), json!(spacing));
                out.insert("divider".to_owned(), json!(divider));
            }
            _ => self.container(&node, &mut out),
        }
        Some(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use guildhall_shared::Id;

    use super::*;

    fn faults(components: Value, v2: bool) -> Value {
        let mut form = FormErrors::new();
        parse(components.as_array().unwrap(), v2, &mut form);
        form.to_json()
    }

    fn code<'a>(faults: &'a Value, pointer: &str) -> &'a str {
        faults
            .pointer(&format!("{pointer}/_errors/0/code"))
            .and_then(Value::as_str)
            .unwrap_or_else(|| panic!("no fault at {pointer} in {faults:#}"))
    }

    #[test]
    fn rows_of_buttons_and_selects_get_ids_and_defaults() {
        let mut form = FormErrors::new();
        let parsed = parse(
            json!([
                { "type": 1, "x": 1, "components": [
                    { "type": 2, "style": 1, "custom_id": "a", "label": "A", "id": 2 },
                    { "type": 2, "style": 5, "url": "https://example.org", "emoji": { "name": "👍" } },
                ] },
                { "type": 1, "components": [{ "type": 3, "custom_id": "s", "options": [
                    { "label": "one", "value": "1", "default": true }] }] },
            ])
            .as_array()
            .unwrap(),
            false,
            &mut form,
        );
        assert!(form.is_empty(), "{:#}", form.to_json());
        assert_eq!(
            Value::Array(parsed),
            json!([
                { "type": 1, "id": 1, "components": [
                    { "type": 2, "id": 2, "style": 1, "custom_id": "a", "label": "A", "disabled": false },
                    { "type": 2, "id": 3, "style": 5, "url": "https://example.org",
                      "emoji": { "name": "👍" }, "disabled": false },
                ] },
                { "type": 1, "id": 4, "components": [{ "type": 3, "id": 5, "custom_id": "s",
                    "min_values": 1, "max_values": 1, "disabled": false,
                    "options": [{ "label": "one", "value": "1", "default": true }] }] },
            ])
        );
    }

    #[test]
    fn faults_name_their_path() {
        let button = |id: &str| json!({ "type": 2, "style": 2, "label": "x", "custom_id": id });
        let faults = faults(
            json!([
                { "type": 1, "components": [button("a"), button("a")] },
                { "type": 1, "components": [{ "type": 2, "style": 5, "label": "x" },
                                            { "type": 2, "style": 9 }] },
                { "type": 1, "components": [] },
                { "type": 10, "content": "x" },
                { "type": 1, "components": [{ "type": 5, "custom_id": "u", "min_values": 3,
                    "max_values": 2, "default_values": [{ "id": "x", "type": "role" }] }] },
            ]),
            false,
        );
        for (pointer, expected) in [
            (
                "/components/0/components/1/custom_id",
                "COMPONENT_CUSTOM_ID_DUPLICATED",
            ),
            ("/components/1/components/0/url", "BASE_TYPE_REQUIRED"),
            ("/components/1/components/1/style", "BASE_TYPE_CHOICES"),
            ("/components/2/components", "BASE_TYPE_BAD_LENGTH"),
            ("/components/3/type", "UNION_TYPE_CHOICES"),
            ("/components/4/components/0/min_values", "NUMBER_TYPE_MAX"),
            (
                "/components/4/components/0/default_values/0/id",
                "NUMBER_TYPE_COERCE",
            ),
            (
                "/components/4/components/0/default_values/0/type",
                "ENUM_TYPE_COERCE",
            ),
        ] {
            assert_eq!(code(&faults, pointer), expected, "{pointer}");
        }
    }

    #[test]
    fn the_space_around_a_text_counts() {
        let wide = format!("a{}", " ".repeat(5000));
        let faults = faults(
            json!([{ "type": 1, "components": [
                { "type": 2, "style": 1, "label": wide, "custom_id": wide },
                { "type": 2, "style": 1, "label": "x", "custom_id": " a " },
            ] }]),
            false,
        );
        for (field, expected) in [
            ("label", "BASE_TYPE_MAX_LENGTH"),
            ("custom_id", "BASE_TYPE_BAD_LENGTH"),
        ] {
            let pointer = format!("/components/0/components/0/{field}");
            assert_eq!(code(&faults, &pointer), expected);
        }
        assert!(faults.pointer("/components/0/components/1").is_none());
    }

    #[test]
    fn the_second_kind_nests_and_is_bounded_as_a_whole() {
        let section = json!({ "type": 9, "components": [{ "type": 10, "content": "x" }],
            "accessory": { "type": 11, "media": { "url": "https://example.org/a.png" } } });
        let whole = json!([{ "type": 17, "accent_color": 5, "components": [
            section, { "type": 14 }, { "type": 12, "items": [{ "media": { "url": "attachment://a.png" } }] },
            { "type": 1, "components": [{ "type": 2, "style": 1, "label": "x", "custom_id": "x" }] },
        ] }]);
        let mut form = FormErrors::new();
        let mut parsed = parse(whole.as_array().unwrap(), true, &mut form);
        assert!(form.is_empty(), "{:#}", form.to_json());
        assert!(find_custom_id(&parsed, "x").is_some());
        let file = json!({ "id": "9", "filename": "a.png", "url": "https://cdn/a", "size": 3 });
        link_media(&mut parsed, Id::new(7).unwrap(), &[file], &mut form);
        assert!(form.is_empty());
        let media = &parsed[0]["components"][2]["items"][0]["media"];
        assert_eq!(
            (&media["url"], &media["attachment_id"]),
            (&json!("https://cdn/a"), &json!("9"))
        );
        let spaced = json!([{ "type": 13, "file": { "url": "attachment://my a.png" } }]);
        let mut spaced = parse(spaced.as_array().unwrap(), true, &mut form);
        let file = json!({ "id": "9", "filename": "my_a.png", "url": "https://cdn/a", "size": 3 });
        link_media(&mut spaced, Id::new(7).unwrap(), &[file], &mut form);
        assert!(form.is_empty());
        assert_eq!(spaced[0]["name"], "my_a.png");
        link_media(
            &mut parse(whole.as_array().unwrap(), true, &mut form),
            Id::new(7).unwrap(),
            &[],
            &mut form,
        );
        assert!(!form.is_empty());

        let text = |len: usize| json!({ "type": 10, "content": "x".repeat(len) });
        let long = faults(json!([text(2000), text(2001)]), true);
        assert_eq!(
            code(&long, "/components"),
            "COMPONENT_DISPLAYABLE_TEXT_SIZE_EXCEEDED"
        );
        let many: Vec<Value> = (0..38).map(|_| text(1)).collect();
        let many = faults(json!([section, { "type": 17, "components": many }]), true);
        assert_eq!(code(&many, "/components"), "BASE_TYPE_BAD_LENGTH");
        let nested = faults(
            json!([{ "type": 17, "components": [{ "type": 17 }] }]),
            true,
        );
        assert_eq!(
            code(&nested, "/components/0/components/0/type"),
            "UNION_TYPE_CHOICES"
        );
        let file = faults(
            json!([{ "type": 13, "file": { "url": "https://x.org" } }]),
            true,
        );
        assert_eq!(
            code(&file, "/components/0/file/url"),
            "URL_TYPE_INVALID_SCHEME"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_tree_panics(kinds: Vec<(u8, bool, i64)>) {
            let tree: Vec<Value> = kinds
                .iter()
                .map(|&(kind, list, number)| {
                    let child = json!([{ "type": kind % 24, "id": number, "components": list }]);
                    json!({ "type": kind, "id": number, "style": number, "components": child,
                            "options": child, "media": kind, "url": list, "items": child })
                })
                .collect();
            let mut form = FormErrors::new();
            parse(&tree, kinds.len() % 2 == 0, &mut form);
        }
    }
}
