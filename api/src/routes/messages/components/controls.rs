//! Rows, buttons and selects of both kinds.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::{
    super::content::check_url, BUTTON, CHANNEL_SELECT, Node, Parser, Place, STRING_SELECT,
};
use crate::form::Fault;

const CUSTOM_ID_MAX: usize = 100;
const OPTIONS_MAX: usize = 25;
const URL_MAX: usize = 512;

impl Parser<'_> {
    pub(super) fn row(&mut self, node: &Node<'_>, out: &mut Map<String, Value>) {
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

    pub(super) fn button(&mut self, node: &Node<'_>, out: &mut Map<String, Value>) {
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

    pub(super) fn select(&mut self, kind: i64, node: &Node<'_>, out: &mut Map<String, Value>) {
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

    pub(super) fn options(&mut self, node: &Node<'_>, max_values: i64) -> Value {
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

    pub(super) fn defaults(&mut self, kind: i64, node: &Node<'_>, max_values: i64) -> Value {
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

    pub(super) fn custom_id(&mut self, node: &Node<'_>, out: &mut Map<String, Value>) {
        let Some(custom_id) = self.text(node, "custom_id", 1..=CUSTOM_ID_MAX, true) else {
            return;
        };
        if !self.custom_ids.insert(custom_id.clone()) {
            let code = "COMPONENT_CUSTOM_ID_DUPLICATED";
            self.duplicate(node.at("custom_id"), code, "Component custom id");
        }
        out.insert("custom_id".to_owned(), json!(custom_id));
    }

    pub(super) fn duplicate(&mut self, path: String, code: &'static str, what: &str) {
        let message = format!("{what} cannot be duplicated");
        self.form.add(path, Fault::Other(code, message.into()));
    }

    pub(super) fn emoji(&mut self, node: &Node<'_>) -> Option<Value> {
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
}
