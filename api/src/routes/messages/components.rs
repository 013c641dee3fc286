//! Components of messages: rows of buttons and selects, and the second kind (flag 1<<15)
//! with sections, texts, media and containers. Pure: no database, no permissions.
//!
//! What goes out holds known fields only, with their defaults and ids filled in.
//! Spec: objects.md › Components; limits-and-errors › Field limits.

use std::{collections::HashSet, ops::RangeInclusive};

use guildhall_shared::{Id, id::marker};
use serde_json::{Map, Value, json};

use super::content::{check_url, storable};
use crate::form::{Fault, FormErrors};

const ROWS_MAX: usize = 5;
/// Of the second kind, nested ones included.
const COMPONENTS_MAX: usize = 40;
/// Characters of all text displays of a message.
const TEXT_MAX: usize = 4000;
const CUSTOM_ID_MAX: usize = 100;
const OPTIONS_MAX: usize = 25;
const URL_MAX: usize = 512;

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

    fn row(&mut self, node: &Node<'_>, out: &mut Map<String, Value>) {
        let Some(children) = self.children(node, "components", 1..=5) else {
            return;
        };
        let parsed = self.list(&node.at("components"), children, Place::Row);
        let selects = parsed
            .iter()
            .filter(|child| child["type"] != BUTTON)
            .count();
        if selects > 0 && parsed.len() > 1 {
            let message = "The specified component exceeds the maximum width";
            let fault = Fault::Other("COMPONENT_LAYOUT_WIDTH_EXCEEDED", message.into());
            self.form.add(node.at("components"), fault);
        }
        out.insert("components".to_owned(), Value::Array(parsed));
    }

    fn button(&mut self, node: &Node<'_>, out: &mut Map<String, Value>) {
        const LINK: i64 = 5;
        const PREMIUM: i64 = 6;
        let style = match node.value("style") {
            None => {
                self.form.add(node.at("style"), Fault::Required);
                return;
            }
            Some(style) => style.as_i64().filter(|style| (1..=PREMIUM).contains(style)),
        };
        let Some(style) = style else {
            let fault = Fault::Choices("(1, 2, 3, 4, 5, 6)");
            self.form.add(node.at("style"), fault);
            return;
        };
        out.insert("style".to_owned(), json!(style));
        let conflict = |parser: &mut Self, key: &str| {
            if node.value(key).is_some() {
                let message = "This field does not go with the button's style.";
                let fault = Fault::Other("BASE_TYPE_CONFLICT", message.into());
                parser.form.add(node.at(key), fault);
            }
        };
        match style {
            LINK => {
                conflict(self, "custom_id");
                conflict(self, "sku_id");
                if let Some(url) = self.text(node, "url", 1..=URL_MAX, true) {
                    check_url(&node.at("url"), &url, self.form);
                    out.insert("url".to_owned(), json!(url));
                }
            }
            PREMIUM => {
                for key in ["custom_id", "url", "label", "emoji"] {
                    conflict(self, key);
                }
                if let Some(sku) = self.snowflake(node, "sku_id", true) {
                    out.insert("sku_id".to_owned(), json!(sku));
                }
            }
            _ => {
                conflict(self, "url");
                conflict(self, "sku_id");
                self.custom_id(node, out);
            }
        }
        let label = self.text(node, "label", 0..=80, false);
        let emoji = self.emoji(node);
        if style != PREMIUM && label.as_ref().is_none_or(|l| l.is_empty()) && emoji.is_none() {
            self.form.add(node.at("label"), Fault::Required);
        }
        if let Some(label) = label {
            out.insert("label".to_owned(), json!(label));
        }
        if let Some(emoji) = emoji {
            out.insert("emoji".to_owned(), emoji);
        }
        let disabled = self.flag(node, "disabled").unwrap_or(false);
        out.insert("disabled".to_owned(), json!(disabled));
    }

    fn select(&mut self, kind: i64, node: &Node<'_>, out: &mut Map<String, Value>) {
        self.custom_id(node, out);
        if let Some(placeholder) = self.text(node, "placeholder", 0..=150, false) {
            out.insert("placeholder".to_owned(), json!(placeholder));
        }
        let min = self.integer(node, "min_values", 0..=25).unwrap_or(1);
        let max = self.integer(node, "max_values", 1..=25).unwrap_or(1);
        if min > max {
            self.form.add(node.at("min_values"), Fault::Max(max));
        }
        out.insert("min_values".to_owned(), json!(min));
        out.insert("max_values".to_owned(), json!(max));
        let disabled = self.flag(node, "disabled").unwrap_or(false);
        out.insert("disabled".to_owned(), json!(disabled));
        if kind == STRING_SELECT {
            let options = self.options(node, max);
            out.insert("options".to_owned(), options);
            return;
        }
        if kind == CHANNEL_SELECT && node.value("channel_types").is_some() {
            let mut types: Vec<i64> = Vec::new();
            for value in self
                .children(node, "channel_types", 0..=30)
                .unwrap_or_default()
            {
                match value.as_i64().filter(|kind| (0..=16).contains(kind)) {
                    Some(kind) if !types.contains(&kind) => types.push(kind),
                    Some(_) => {}
                    None => {
                        let fault = Fault::NotEnum(value.to_string().chars().take(20).collect());
                        self.form.add(node.at("channel_types"), fault);
                    }
                }
            }
            out.insert("channel_types".to_owned(), json!(types));
        }
        if node.value("default_values").is_some() {
            let defaults = self.defaults(kind, node, max);
            out.insert("default_values".to_owned(), defaults);
        }
    }

    fn options(&mut self, node: &Node<'_>, max_values: i64) -> Value {
        let mut parsed = Vec::new();
        let mut seen = HashSet::new();
        let mut chosen = 0;
        let options = self.children(node, "options", 1..=OPTIONS_MAX);
        for (index, value) in options.into_iter().flatten().enumerate() {
            let path = format!("{}.options.{index}", node.path);
            let Value::Object(map) = value else {
                self.form.add(path, Fault::NotObject);
                continue;
            };
            let option = Node { path: &path, map };
            let label = self
                .text(&option, "label", 1..=100, true)
                .unwrap_or_default();
            let value = self
                .text(&option, "value", 1..=100, true)
                .unwrap_or_default();
            if !seen.insert(value.clone()) {
                let code = "SELECT_COMPONENT_OPTION_VALUE_DUPLICATED";
                self.duplicate(option.at("value"), code, "Option value");
            }
            let mut out = Map::new();
            out.insert("label".to_owned(), json!(label));
            out.insert("value".to_owned(), json!(value));
            if let Some(description) = self.text(&option, "description", 0..=100, false) {
                out.insert("description".to_owned(), json!(description));
            }
            if let Some(emoji) = self.emoji(&option) {
                out.insert("emoji".to_owned(), emoji);
            }
            if let Some(default) = self.flag(&option, "default") {
                chosen += i64::from(default);
                out.insert("default".to_owned(), json!(default));
            }
            parsed.push(Value::Object(out));
        }
        if chosen > max_values {
            let message = "More options are chosen than may be.";
            let code = "SELECT_COMPONENT_TOO_MANY_DEFAULT_OPTIONS";
            self.form
                .add(node.at("options"), Fault::Other(code, message.into()));
        }
        if parsed.len() < usize::try_from(max_values).unwrap_or(0) && parsed.len() < OPTIONS_MAX {
            let options = parsed.len().max(1) as i64;
            if node.value("max_values").is_some() {
                self.form.add(node.at("max_values"), Fault::Max(options));
            }
        }
        Value::Array(parsed)
    }

    fn defaults(&mut self, kind: i64, node: &Node<'_>, max_values: i64) -> Value {
        let kinds: &[&str] = match kind {
            5 => &["user"],
            6 => &["role"],
            7 => &["user", "role"],
            _ => &["channel"],
        };
        let mut parsed = Vec::new();
        let max = usize::try_from(max_values).unwrap_or(OPTIONS_MAX);
        let defaults = self.children(node, "default_values", 0..=max);
        for (index, value) in defaults.into_iter().flatten().enumerate() {
            let path = format!("{}.default_values.{index}", node.path);
            let Value::Object(map) = value else {
                self.form.add(path, Fault::NotObject);
                continue;
            };
            let default = Node { path: &path, map };
            let id = self.snowflake(&default, "id", true);
            match default.value("type").and_then(Value::as_str) {
                Some(kind) if kinds.contains(&kind) => {
                    parsed.extend(id.map(|id| json!({ "id": id, "type": kind })));
                }
                Some(other) => {
                    let fault = Fault::NotEnum(other.chars().take(20).collect());
                    self.form.add(default.at("type"), fault);
                }
                None => self.form.add(default.at("type"), Fault::Required),
            }
        }
        Value::Array(parsed)
    }

    fn section(&mut self, node: &Node<'_>, out: &mut Map<String, Value>) {
        let texts = self.children(node, "components", 1..=3).unwrap_or_default();
        let texts = self.list(&node.at("components"), texts, Place::Section);
        out.insert("components".to_owned(), Value::Array(texts));
        match node.value("accessory") {
            Some(accessory) => {
                let accessory = self.component(&node.at("accessory"), accessory, Place::Accessory);
                out.extend(accessory.map(|accessory| ("accessory".to_owned(), accessory)));
            }
            None => self.form.add(node.at("accessory"), Fault::Required),
        }
    }

    /// `media`, `description` and `spoiler`.
    fn media_item(&mut self, node: &Node<'_>, out: &mut Map<String, Value>) {
        let media = self.media(node, "media", false);
        let description = self.text(node, "description", 1..=1024, false);
        let spoiler = self.flag(node, "spoiler").unwrap_or(false);
        out.insert("media".to_owned(), media);
        out.insert("description".to_owned(), json!(description));
        out.insert("spoiler".to_owned(), json!(spoiler));
    }

    fn gallery(&mut self, node: &Node<'_>, out: &mut Map<String, Value>) {
        let mut items = Vec::new();
        let values = self.children(node, "items", 1..=10);
        for (index, value) in values.into_iter().flatten().enumerate() {
            let path = format!("{}.items.{index}", node.path);
            let Value::Object(map) = value else {
                self.form.add(path, Fault::NotObject);
                continue;
            };
            let mut item = Map::new();
            self.media_item(&Node { path: &path, map }, &mut item);
            items.push(Value::Object(item));
        }
        out.insert("items".to_owned(), Value::Array(items));
    }

    fn file(&mut self, node: &Node<'_>, out: &mut Map<String, Value>) {
        let file = self.media(node, "file", true);
        let spoiler = self.flag(node, "spoiler").unwrap_or(false);
        out.insert("file".to_owned(), file);
        // Filled in from the attachment.
        out.insert("name".to_owned(), Value::Null);
        out.insert("size".to_owned(), Value::Null);
        out.insert("spoiler".to_owned(), json!(spoiler));
    }

    fn container(&mut self, node: &Node<'_>, out: &mut Map<String, Value>) {
        let color = self.integer(node, "accent_color", 0..=0xFF_FFFF);
        let spoiler = self.flag(node, "spoiler").unwrap_or(false);
        let children = self.children(node, "components", 1..=COMPONENTS_MAX);
        let path = node.at("components");
        let children = self.list(&path, children.unwrap_or_default(), Place::Container);
        out.insert("accent_color".to_owned(), json!(color));
        out.insert("spoiler".to_owned(), json!(spoiler));
        out.insert("components".to_owned(), Value::Array(children));
    }

    /// `{url}` of the web or, where `upload`, of an attachment of this message only.
    fn media(&mut self, node: &Node<'_>, key: &str, upload: bool) -> Value {
        let path = node.at(key);
        let map = match node.value(key) {
            Some(Value::Object(map)) => map,
            Some(_) => {
                self.form.add(path, Fault::NotObject);
                return Value::Null;
            }
            None => {
                self.form.add(path, Fault::Required);
                return Value::Null;
            }
        };
        let media = Node { path: &path, map };
        let Some(url) = self.text(&media, "url", 1..=2048, true) else {
            return Value::Null;
        };
        let is_upload = url
            .strip_prefix("attachment://")
            .is_some_and(|name| !name.is_empty());
        if upload && !is_upload {
            let message = "Only attachment:// references are possible here.";
            let fault = Fault::Other("URL_TYPE_INVALID_SCHEME", message.into());
            self.form.add(media.at("url"), fault);
        } else if !is_upload {
            check_url(&media.at("url"), &url, self.form);
        }
        json!({ "url": url, "proxy_url": url })
    }

    fn custom_id(&mut self, node: &Node<'_>, out: &mut Map<String, Value>) {
        let Some(custom_id) = self.text(node, "custom_id", 1..=CUSTOM_ID_MAX, true) else {
            return;
        };
        if !self.custom_ids.insert(custom_id.clone()) {
            let code = "COMPONENT_CUSTOM_ID_DUPLICATED";
            self.duplicate(node.at("custom_id"), code, "Component custom id");
        }
        out.insert("custom_id".to_owned(), json!(custom_id));
    }

    fn duplicate(&mut self, path: String, code: &'static str, what: &str) {
        let message = format!("{what} cannot be duplicated");
        self.form.add(path, Fault::Other(code, message.into()));
    }

    fn emoji(&mut self, node: &Node<'_>) -> Option<Value> {
        let path = node.at("emoji");
        let map = match node.value("emoji")? {
            Value::Object(map) => map,
            _ => {
                self.form.add(path, Fault::NotObject);
                return None;
            }
        };
        let emoji = Node { path: &path, map };
        let id = self.snowflake(&emoji, "id", false);
        let name = self.text(&emoji, "name", 0..=32, id.is_none());
        let mut out = Map::new();
        out.extend(id.map(|id| ("id".to_owned(), json!(id))));
        let name = name.unwrap_or_else(|| "_".to_owned());
        out.insert("name".to_owned(), json!(name));
        if let Some(animated) = self.flag(&emoji, "animated") {
            out.insert("animated".to_owned(), json!(animated));
        }
        Some(Value::Object(out))
    }

    fn children<'a>(
        &mut self,
        node: &Node<'a>,
        key: &str,
        allowed: RangeInclusive<usize>,
    ) -> Option<&'a [Value]> {
        let (min, max) = (*allowed.start(), *allowed.end());
        match node.value(key) {
            None => self.form.add(node.at(key), Fault::Required),
            Some(Value::Array(list)) if allowed.contains(&list.len()) => return Some(list),
            Some(Value::Array(_)) => self.form.add(node.at(key), Fault::BadLength { min, max }),
            Some(_) => self.form.add(node.at(key), Fault::NotList),
        }
        None
    }

    fn text(
        &mut self,
        node: &Node<'_>,
        key: &str,
        allowed: RangeInclusive<usize>,
        required: bool,
    ) -> Option<String> {
        match node.value(key) {
            Some(Value::String(text)) => {
                self.form.length(&node.at(key), text, allowed);
                Some(storable(text))
            }
            Some(_) => {
                self.form.add(node.at(key), Fault::NotString);
                None
            }
            None => {
                if required {
                    self.form.add(node.at(key), Fault::Required);
                }
                None
            }
        }
    }

    fn integer(&mut self, node: &Node<'_>, key: &str, allowed: RangeInclusive<i64>) -> Option<i64> {
        let value = node.value(key)?;
        let Some(number) = value.as_i64() else {
            let shown = value.to_string().chars().take(100).collect();
            self.form.add(node.at(key), Fault::NotInt(shown));
            return None;
        };
        self.form.range(&node.at(key), number, allowed);
        Some(number)
    }

    fn flag(&mut self, node: &Node<'_>, key: &str) -> Option<bool> {
        let value = node.value(key)?;
        if value.as_bool().is_none() {
            self.form.add(node.at(key), Fault::NotBool);
        }
        value.as_bool()
    }

    fn snowflake(&mut self, node: &Node<'_>, key: &str, required: bool) -> Option<Id<marker::Any>> {
        let Some(value) = node.value(key) else {
            if required {
                self.form.add(node.at(key), Fault::Required);
            }
            return None;
        };
        match serde_json::from_value(value.clone()) {
            Ok(id) => Some(id),
            Err(_) => {
                let shown = value.to_string().chars().take(100).collect();
                self.form.add(node.at(key), Fault::NotSnowflake(shown));
                None
            }
        }
    }
}

/// Fills in what media of a message need besides their address: an id, and the attachment
/// behind an `attachment://` reference. `attachments` are attachment objects as they go out.
///
/// Faults: a reference to a file that is not there.
pub(crate) fn link_media(
    components: &mut [Value],
    message: Id<marker::Message>,
    attachments: &[Value],
    form: &mut FormErrors,
) {
    for (index, component) in components.iter_mut().enumerate() {
        let path = format!("components.{index}");
        link(component, &path, message, attachments, form);
    }
}

fn link(
    component: &mut Value,
    path: &str,
    message: Id<marker::Message>,
    attachments: &[Value],
    form: &mut FormErrors,
) {
    let Value::Object(map) = component else {
        return;
    };
    for key in ["components", "items"] {
        let children = map.get_mut(key).and_then(Value::as_array_mut);
        for (index, child) in children.into_iter().flatten().enumerate() {
            let path = format!("{path}.{key}.{index}");
            link(child, &path, message, attachments, form);
        }
    }
    if let Some(accessory) = map.get_mut("accessory") {
        link(
            accessory,
            &format!("{path}.accessory"),
            message,
            attachments,
            form,
        );
    }
    for key in ["media", "file"] {
        let Some(Value::Object(media)) = map.get_mut(key) else {
            continue;
        };
        media.insert("id".to_owned(), json!(message));
        let url = media.get("url").and_then(Value::as_str).unwrap_or_default();
        let Some(name) = url.strip_prefix("attachment://") else {
            continue;
        };
        let Some(attachment) = attachments.iter().find(|file| file["filename"] == name) else {
            let fault = Fault::Other(
                "UNFURLED_MEDIA_ITEM_REFERENCED_ATTACHMENT_NOT_FOUND",
                "The referenced attachment was not found".into(),
            );
            form.add(format!("{path}.{key}.url"), fault);
            continue;
        };
        for field in ["url", "proxy_url", "width", "height", "content_type"] {
            if let Some(value) = attachment.get(field) {
                media.insert(field.to_owned(), value.clone());
            }
        }
        media.insert("attachment_id".to_owned(), attachment["id"].clone());
        if key == "file" {
            map.insert("name".to_owned(), attachment["filename"].clone());
            map.insert("size".to_owned(), attachment["size"].clone());
        }
    }
}

#[cfg(test)]
mod tests {
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
